"""Reward models from rankings, labels and scores, at the last token and at all; ensembles; a head that is kept."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.configs.common import Data, Optim
from prefloop.configs.scorers import Combining
from prefloop.errors import InputError
from prefloop.feedback.utility import find_utility
from prefloop.loop.inputs import examples
from prefloop.loop.reading import Reader
from prefloop.losses.reward_model import REWARD_LOSSES
from prefloop.models.load import load_reward_model
from prefloop.models.packing import pack
from prefloop.records import Prompt
from prefloop.rollout.reward_scorers import EnsembleScorer
from prefloop.runtime import start_world
from prefloop.text import load_tokenizer
from tests.algorithms.prefer_settings import data_of
from tests.algorithms.reward_tasks import config, logged
from tests.algorithms.small import assert_close, write
from tests.algorithms.tiny import CPU, WORDS


@pytest.mark.parametrize("loss", [name for name in REWARD_LOSSES if name != "bradley_terry"])
def test_the_rule_is_learned_and_cuts_change_nothing(
    loss: Any, project: Path, tmp_path: Path
) -> None:  # N1 K7
    settings = config(project, tmp_path / "whole", loss)
    rows = logged(settings)
    if loss in ("regression", "ordinal"):
        assert rows[-1]["heldout_error"] < 0.3 * rows[0]["error"]
    else:
        # Naming the best says nothing of the others.
        assert rows[-1]["heldout_accuracy"] > (0.7 if loss == "best_of" else 0.9)
    short = replace(settings, max_steps=3)
    for name, tokens in (("short", 8192), ("cut", 25)):
        run = replace(short.run, out=str(tmp_path / name))
        logged(replace(short, run=run, compute=replace(CPU, micro_batch_tokens=tokens)))
    # A weight whose gradient is nearly zero moves by the sign of a rounding error: Adam takes a whole step on it.
    assert_close(tmp_path / "cut", tmp_path / "short", tolerance=3e-4)


@pytest.mark.parametrize(
    ("loss", "open_order"),
    [("all_pairs", {"top": 1}), ("plackett_luce", {"top": 1}), ("all_pairs", {"ranks": [1, 2, 2]})],
)
def test_what_a_ranking_leaves_open_is_in_no_order(
    loss: Any, open_order: dict[str, Any], project: Path, tmp_path: Path
) -> None:  # D15
    """Lists with the rest of a best of K, or what is tied, turned round give the same loss, accuracy and margin; in an order of all they would not."""
    found: dict[str, list[float]] = {}
    for name, order, more in (
        ("open", (0, 1, 2), open_order), ("turned", (0, 2, 1), open_order), ("whole", (0, 1, 2), {}), ("whole turned", (0, 2, 1), {}),
    ):  # fmt: skip
        file = tmp_path / f"{name} lists.jsonl"  # not the one that `config` writes
        texts = ("yes", "so it is", "no")
        write(
            file,
            [
                {"prompt": f"{word} ", "completions": [texts[at] for at in order], **more}
                for word in WORDS[:8]
            ],
        )
        settings = config(project, tmp_path / name, loss)
        data = Data(source=str(file), heldout=0.0)
        (row,) = logged(replace(settings, data=data, max_steps=1, batch_size=8))
        found[name] = [row[key] for key in ("loss", "accuracy", "margin")]
    assert found["turned"] == pytest.approx(found["open"], rel=1e-5)
    assert found["whole turned"] != pytest.approx(found["whole"], rel=1e-3)


def test_token_scores_end_in_the_score(project: Path, tmp_path: Path) -> None:  # M14
    model = load_reward_model(str(project / "reward/final"), CPU)
    tokenizer, world = load_tokenizer(str(project / "start")), start_world("cpu")
    for kind in ("comparisons", "rankings", "labels"):
        source = Data(source=str(data_of(kind, tmp_path / f"{kind}.jsonl", 6)), heldout=0.0)
        batch = pack(examples(kind, source, Reader(tokenizer=tokenizer, store="", world=world)).train.groups)
        with torch.no_grad():
            scores, every = model(batch), model.token_scores(batch)
        last = batch.completion_mask.sum(dim=1, keepdim=True) - 1
        torch.testing.assert_close(every.gather(1, last).squeeze(1), scores)
        assert torch.all(every[~batch.completion_mask] == 0)
        assert every[batch.completion_mask].unique().numel() > len(scores)


def test_a_head_that_is_kept_goes_on_from_its_loss(project: Path, tmp_path: Path) -> None:
    """Preference-model pretraining is one run after another: the second begins where the first has ended."""
    first = config(project, tmp_path / "first", "bradley_terry", max_steps=3)
    logged(first)
    still = {"max_steps": 1, "normalise": False, "optim": Optim(lr=0.0)}
    again = replace(first, model=str(tmp_path / "first/final"), **still)
    logged(replace(again, keep_head=True, run=replace(first.run, out=str(tmp_path / "kept"))))
    logged(replace(again, run=replace(first.run, out=str(tmp_path / "fresh"))))
    heads = {
        name: load_reward_model(str(tmp_path / name / "final"), CPU).score_head.state_dict()["weight"]
        for name in ("first", "kept", "fresh")
    }
    assert torch.equal(heads["kept"], heads["first"])
    assert not torch.allclose(heads["fresh"], heads["first"], atol=1e-3)
    with pytest.raises(InputError, match="has no weights"):
        logged(replace(again, model=str(project / "start"), keep_head=True, run=replace(first.run, out=str(tmp_path / "no"))))  # fmt: skip


def test_settings_of_another_loss_are_refused(project: Path, tmp_path: Path) -> None:  # K7
    for changes in ({"margin": True}, {"label_smoothing": 0.1}):
        with pytest.raises(InputError, match="loss binary has none"):
            config(project, tmp_path / "no", "binary", **changes)


def test_scorers_of_models(project: Path) -> None:
    world = start_world("cpu")
    names = [str(project / "reward/final"), str(project / "reward_lora/final")]
    prompts, completions = (
        [Prompt(content="sun"), Prompt(content="a"), Prompt(content="tea")],
        ["b!", "hm", "oak"],
    )
    scorers = {
        rule: EnsembleScorer.load(names, CPU, world, rules=Combining(combine=rule))  # pyright: ignore[reportArgumentType]
        for rule in ("mean", "worst", "penalised")
    }
    each = scorers["mean"].members(prompts, completions)
    assert each.shape == (2, 3)
    assert scorers["mean"](prompts, completions) == pytest.approx(each.mean(0).tolist())
    assert scorers["worst"](prompts, completions) == pytest.approx(each.min(0).values.tolist())
    spread = scorers["mean"].disagreement(prompts, completions)
    assert spread == pytest.approx((each[0] - each[1]).abs().div(2).tolist(), abs=1e-6)
    penalised = [m - 0.5 * s * s for m, s in zip(each.mean(0).tolist(), spread, strict=True)]
    assert scorers["penalised"](prompts, completions) == pytest.approx(penalised, abs=1e-5)
    start, stopping = str(project / "start"), str(project / "stopping/final")
    same = EnsembleScorer.load(f"{start}@{start}", CPU, world, rules=Combining(beta=2.0))
    assert same(prompts, completions) == pytest.approx([0.0] * 3, abs=1e-5)
    other = EnsembleScorer.load(f"{stopping}@{start}", CPU, world)(prompts, completions)
    assert len({round(score, 3) for score in other}) == 3
    twice = EnsembleScorer.load(f"{stopping}@{start}", CPU, world, rules=Combining(beta=2.0))
    assert twice(prompts, completions) == pytest.approx([2 * score for score in other], abs=1e-5)
    with pytest.raises(InputError, match="a name is missing"):
        EnsembleScorer.load([], CPU, world)


def test_the_density_ratio_of_two_models_is_an_annotator(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2] / "examples")
    utility = find_utility("density_ratio:utility")
    module = sys.modules["density_ratio"]
    monkeypatch.setattr(module, "STRONG", str(project / "stopping/final"))
    monkeypatch.setattr(module, "WEAK", str(project / "start"))
    prompt, world = Prompt(content="sun"), start_world("cpu")
    scorer = EnsembleScorer.load(f"{project / 'stopping/final'}@{project / 'start'}", CPU, world)
    assert utility(prompt, "s") == pytest.approx(scorer([prompt], ["s"])[0], abs=1e-4)
    assert abs(utility(prompt, "s")) > 1
