"""Every objective learns a rule that shows in the text; each starts where its formula says, and loads only what it needs."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from prefloop.algorithms import prefer, reward
from prefloop.configs.common import LoRA
from prefloop.configs.prefer import FollowPolicy, PreferConfig
from prefloop.configs.reward import RewardConfig
from prefloop.errors import InputError
from prefloop.loop import reference
from prefloop.loop.inputs import examples
from prefloop.loop.objective_examples import labels_of, mismatched
from prefloop.loop.reading import Reader
from prefloop.losses import sequence_sum
from prefloop.losses.objectives import OBJECTIVES
from prefloop.models.load import load_policy
from prefloop.models.packing import pack
from prefloop.records import Comparison, Label, Prompt, Score
from prefloop.runtime import start_world
from prefloop.text import load_tokenizer
from prefloop.text.groups import Group
from tests.algorithms import small
from tests.algorithms.prefer_settings import OF_REWARD, SHARED, prefer_settings, shared_settings
from tests.algorithms.small import assert_close, assert_same, metrics_of, write
from tests.algorithms.test_resume import train_with_stops
from tests.algorithms.tiny import CPU, FAST, pairs
from tests.runtime.processes import run_module


def logged(settings: PreferConfig) -> list[dict[str, Any]]:
    prefer.train(settings)
    return metrics_of(Path(settings.run.out))


NO_RULE = {"sft", "unlikelihood", "discopop"}
"""SFT sees one side only, and so nearly does its control; DiscoPOP's slope at the start points the wrong way."""


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_the_rule_is_learned(loss: str, project: Path, tmp_path: Path) -> None:  # K7 K9
    rows = logged(prefer_settings(project, tmp_path / loss, loss))
    first, last = rows[0], rows[-1]
    kind = OBJECTIVES[loss].data
    if kind in ("comparisons", "rankings"):
        if loss in NO_RULE:
            assert last["heldout_loss"] < first["loss"]
        else:
            assert last["heldout_accuracy"] > (0.9 if kind == "comparisons" else 0.85)
    elif kind == "labels":
        before = first["reward_good"] - first["reward_bad"]
        assert last["heldout_reward_good"] - last["heldout_reward_bad"] > before
    else:
        assert last["heldout_error"] < first["error"]


@pytest.mark.parametrize("loss", ["simpo", "rrhf"])
def test_without_a_reference_none_is_loaded_or_run(
    loss: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a reference was asked for")

    monkeypatch.setattr(reference, "reference_tokens", refuse)
    monkeypatch.setattr(reference, "open_reference", refuse)
    settings = prefer_settings(project, tmp_path / loss, loss, max_steps=2)
    logged(settings)
    assert not Path(settings.reference_cache).exists()
    with pytest.raises(InputError, match="has no reference"):
        logged(replace(settings, reference=str(project / "other")))


@pytest.mark.parametrize("loss", ["ipo_sum", "r_dpo", "wpo", "pl_dpo", "kto", "npo", "dro"])
def test_a_wrong_reference_stops_the_run_at_step_0(
    loss: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # K9
    wrong, real = load_policy(str(project / "other"), CPU), reference.reference_tokens
    monkeypatch.setattr(
        reference, "reference_tokens", lambda policy, *args, **kwargs: real(wrong, *args, **kwargs)
    )
    settings = ("beta=1",) if "beta" in OBJECTIVES[loss].settings else ()
    with pytest.raises(InputError, match=f"step 0: {loss} loss is "):
        logged(prefer_settings(project, tmp_path / "wrong", loss, settings=settings, max_steps=1))


CUT = (*(loss for loss in SHARED if loss in OBJECTIVES), "ld_dpo", "pl_dpo", "cringe", "aot_paired")


@pytest.mark.parametrize("loss", CUT)
def test_cutting_a_step_and_stopping_a_run_change_nothing(
    loss: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # N1 R1 R5
    whole = shared_settings(project, tmp_path / "whole", loss)
    assert isinstance(whole, PreferConfig)
    rows = logged(whole)
    assert len(rows) == 4
    cut = replace(
        whole,
        run=replace(whole.run, out=str(tmp_path / "cut")),
        compute=replace(CPU, micro_batch_tokens=25),
    )
    logged(cut)
    assert_close(tmp_path / "cut", tmp_path / "whole")
    broken = replace(whole, run=replace(whole.run, out=str(tmp_path / "broken")))
    monkeypatch.setitem(small.TRAIN, PreferConfig, prefer.train)
    assert train_with_stops(broken, monkeypatch, after=(2, 3)) == 2  # the third step ends an epoch
    assert_same(tmp_path / "broken", tmp_path / "whole")


def test_two_processes_equal_one(project: Path, tmp_path: Path) -> None:  # N3 M10
    run_module("tests.algorithms.prefer_ranks", str(project), str(tmp_path), timeout=240)
    for loss in SHARED:
        settings = shared_settings(project, tmp_path / f"one-{loss}", loss)
        (reward if loss in OF_REWARD else prefer).train(settings)  # pyright: ignore[reportArgumentType]
        assert_close(tmp_path / f"two-{loss}", tmp_path / f"one-{loss}")


def test_a_reference_that_follows_is_the_policy_where_the_rate_is_one(project: Path, tmp_path: Path) -> None:
    """After every step the reference is the policy again, so every loss is ln 2 and every margin 0."""
    settings = prefer_settings(project, tmp_path / "dpo", "dpo", follow=FollowPolicy(every=1), max_steps=3)
    rows = logged(settings)
    assert [row["loss"] for row in rows] == pytest.approx([0.6931472] * 3, abs=1e-4)
    slow = prefer_settings(
        project, tmp_path / "slow", "dpo", follow=FollowPolicy(every=1, rate=0.5), max_steps=3
    )
    assert logged(slow)[-1]["margin"] > 1e-3


@pytest.mark.parametrize("loss", ["tdpo2", "kto", "dro", "wpo"])
def test_adapters_start_at_the_reference_and_move(loss: str, project: Path, tmp_path: Path) -> None:  # K9
    settings = prefer_settings(
        project, tmp_path / loss, loss, lora=LoRA(rank=2, alpha=16.0), optim=FAST, epochs=0.0, max_steps=3
    )
    rows = logged(settings)  # the first step is checked against the formula
    rewards = {"kto": "reward_good", "dro": "reward"}.get(loss, "margin")
    assert abs(rows[0][rewards]) < 1e-4
    assert abs(rows[-1][rewards]) > 1e-3


def test_mismatched_completions_are_of_another_prompt() -> None:  # K14
    def group(prompt: int, completion: int) -> Group:
        return Group(prompt=[prompt], completions=([completion],), masks=([True],))

    groups = [group(1, 10), group(1, 11), group(2, 12), group(3, 13), group(3, 14)]
    matched = mismatched(groups, "kto")
    assert [row.prompt for row in matched] == [(1,), (1,), (2,), (3,), (3,)]
    assert [row.completions[0][0] for row in matched] == [12, 12, 13, 10, 10]
    with pytest.raises(InputError, match="all 2 have one prompt"):
        mismatched(groups[:2], "kto")


def test_labels_from_comparisons(project: Path, tmp_path: Path) -> None:
    settings = prefer_settings(project, tmp_path / "kto", "kto", from_comparisons=True, max_steps=2)
    settings = replace(settings, data=replace(settings.data, source=str(pairs(tmp_path / "pairs.jsonl", 16))))
    row = logged(settings)[-1]
    assert {"reward_good", "reward_bad", "reference_point"} <= row.keys()


@pytest.mark.parametrize("loss", ["kto", "bco", "bco_matched", "dro", "binary", "regression"])
def test_one_kind_of_answer_is_refused_before_the_first_step(
    loss: str, project: Path, tmp_path: Path
) -> None:
    settings = prefer_settings(project, tmp_path / "one", "dro" if loss in ("dro", "regression") else "kto")
    said = {"score": 0.5} if loss in ("dro", "regression") else {"label": True}
    rows = [{"prompt": word, "completion": " yes", **said} for word in ("ba", "ke", "lo")]
    write(tmp_path / "one.jsonl", rows)
    data = replace(settings.data, source=str(tmp_path / "one.jsonl"), heldout=0.0)
    run = settings.run
    of_reward = RewardConfig(run=run, data=data, model=settings.model, compute=CPU)
    refused = r"all 3 are good; give both kinds|all 3 are 0\.5; give completions"
    if loss in ("binary", "regression"):
        with pytest.raises(InputError, match=refused):
            reward.train(replace(of_reward, loss=loss))
    else:
        with pytest.raises(InputError, match=refused):
            logged(replace(settings, data=data, loss=loss, settings=()))
    assert not list(Path(run.out).glob("checkpoint*"))


def ours(policy_chosen: Tensor, policy_rejected: Tensor, *, margin: float = 1.0) -> Tensor:
    """A loss from outside the package."""
    return torch.relu(margin - policy_chosen + policy_rejected)


def test_a_loss_from_outside(project: Path, tmp_path: Path) -> None:
    name = "tests.algorithms.test_prefer:ours"
    rows = logged(prefer_settings(project, tmp_path / "ours", name, settings=("margin=5",)))
    assert rows[-1]["heldout_accuracy"] > 0.9


def test_what_the_data_says_of_completions() -> None:
    """Good is 1 and bad 0: the metrics by side are told the same, so training the wrong way round would look right."""
    prompt, one = Prompt(content="a"), Group(prompt=[1], completions=([2],), masks=([True],))
    two = Group(prompt=[1], completions=([2], [3]), masks=([True], [True]))
    assert labels_of(Label(prompt=prompt, completion="b", good=True), one) == (1.0,)
    assert labels_of(Label(prompt=prompt, completion="b", good=False), one) == (0.0,)
    assert labels_of(Score(prompt=prompt, completion="b", value=-0.5), one) == (-0.5,)
    soft = Comparison(prompt=prompt, chosen="b", rejected="c", p_soft=0.75)
    assert labels_of(soft, two) == (0.75, 0.25)


def test_d2o_holds_the_last_completion_to_a_reference_of_its_own(project: Path, tmp_path: Path) -> None:
    """The first step's loss by hand: own samples against the start, whose log-ratio is 0, the last one against another model."""
    settings = prefer_settings(
        project,
        tmp_path / "two",
        "d2o",
        max_steps=1,
        reference_last=str(project / "other"),
        settings=("alpha=0.5",),
    )
    (row,) = logged(replace(settings, batch_size=32, data=replace(settings.data, heldout=0.0)))
    world, tokenizer = start_world("cpu"), load_tokenizer(settings.model)
    inputs = examples(
        "rankings", replace(settings.data, heldout=0.0), Reader(tokenizer=tokenizer, store="", world=world)
    )
    start, other = (load_policy(name, CPU) for name in (settings.model, str(project / "other")))
    losses = []
    for group in inputs.train.groups:
        batch = pack([group])
        with torch.no_grad():
            ours, theirs = (sequence_sum(model(batch), batch.completion_mask)[-1] for model in (start, other))
        losses.append(softplus(0.5 * (ours - theirs)).item())  # -log σ(0 - α ρ+)
    assert len(losses) == 32
    assert row["loss"] == pytest.approx(sum(losses) / 32, rel=1e-4)
    (plain,) = logged(prefer_settings(project, tmp_path / "one", "d2o", max_steps=1))
    assert plain["loss"] == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "changes", "said"),
    [
        ("dop", {}, "did you mean dpo"),
        ("dpo", {"settings": ("gamma=1",)}, "has no setting gamma"),
        ("kto", {"sft_coef": 0.1}, "no best completion"),
        ("dpo", {"from_comparisons": True}, "not labels"),
        ("orpo", {"follow": FollowPolicy(every=1)}, "has no reference"),
        ("pl_dpo", {"reference_last": "x"}, "has one reference"),
        ("d2o", {"reference_last": "x", "follow": FollowPolicy(every=1)}, "has one reference"),
    ],
)
def test_contradictions_are_named(
    loss: str, changes: dict[str, Any], said: str, project: Path, tmp_path: Path
) -> None:  # K7
    with pytest.raises(InputError, match=said):
        logged(prefer_settings(project, tmp_path / "no", loss, **changes))
