"""Steps, trajectories, scales, contexts and lengths: what a reward model was trained on decides how its score is read, wherever it is loaded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from prefloop.algorithms import reward
from prefloop.configs.common import Data, LoRA, RunSettings
from prefloop.configs.reward import RewardConfig
from prefloop.data import load_comparisons, load_records, load_steps, write_jsonl
from prefloop.errors import InputError
from prefloop.loop.inputs import comparisons, examples
from prefloop.loop.ordinal import Thresholds
from prefloop.loop.reading import Reader
from prefloop.loop.reward_step import Scored
from prefloop.losses.reward_model import steps_minimum, steps_product
from prefloop.models.load import load_reward_model, stored_reading
from prefloop.models.packing import pack
from prefloop.records import Comparison, Prompt, Steps
from prefloop.rollout.reward_scorers import EnsembleScorer
from prefloop.runtime import start_world
from prefloop.text import completions_group, load_tokenizer
from prefloop.text.encode import steps_group
from prefloop.text.groups import Group
from tests.algorithms import tiny
from tests.algorithms.reward_tasks import (
    TASKS,
    config,
    ensembled,
    folder,
    in_contexts,
    logged,
    pretrained,
    ratings,
)
from tests.algorithms.small import assert_same, write
from tests.algorithms.test_resume import train_with_a_stop_after_every_step
from tests.algorithms.tiny import CPU, WORDS

# Steps


def test_steps_end_where_their_separator_does(project: Path, tmp_path: Path) -> None:  # D2
    tokenizer, world = load_tokenizer(str(project / "start")), start_world("cpu")
    rows = [{"prompt": "add", "completions": ["one\tis", " two ", "three"], "labels": [True, False, True]}]
    write(tmp_path / "steps.jsonl", rows)
    source = Data(source=str(tmp_path / "steps.jsonl"), heldout=0.0)
    found = examples(
        "steps", source, Reader(tokenizer=tokenizer, store="", world=world), step_separator="\n\n"
    ).train
    (record,), (group,) = found.records, found.groups
    assert record.completion == "one\tis\n\n two \n\nthree"
    (ids,), (mask,) = group.completions, group.masks
    ends = [place for place, end in enumerate(mask) if end]
    read = [tokenizer.decode(list(ids[: end + 1])) for end in ends]
    assert read[:2] == ["one\tis\n\n", "one\tis\n\n two \n\n"]
    assert ends[-1] == len(ids) - 1
    assert ids[-1] == tokenizer.eos_token_id
    # What is scored later is cut in the same places.
    again = steps_group(tokenizer, record.prompt, [record.completion], [True], "\n\n")
    assert (again.completions, again.masks) == (group.completions, group.masks)
    cut = steps_group(tokenizer, record.prompt, ["a\n\n\n\nb"], [False], "\n\n")
    assert [sum(mask) for mask in cut.masks] == [2]
    assert tokenizer.decode(list(cut.completions[0])) == "a\n\n\n\nb"


def test_bad_steps_are_named(project: Path, tmp_path: Path) -> None:
    tokenizer, world = load_tokenizer(str(project / "start")), start_world("cpu")
    file = tmp_path / "steps.jsonl"
    for row, said in (
        ({"prompt": "a", "completions": ["b", "c"], "labels": [True]}, "every step needs its label"),
        ({"prompt": "a", "completions": ["b"], "labels": [1]}, "labels\\[0\\]"),
        ({"prompt": "a", "completions": [" "], "labels": [True]}, "the step is empty"),
    ):
        write(file, [row])
        with pytest.raises(InputError, match=said):
            load_steps(file)
    write(file, [{"prompt": "a", "completions": ["b\nc"], "labels": [True]}])
    with pytest.raises(InputError, match="contains the separator"):
        examples("steps", Data(source=str(file)), Reader(tokenizer=tokenizer, store="", world=world))


def test_a_cut_completion_keeps_the_labels_of_the_steps_that_are_left(project: Path) -> None:  # D2
    """Each label is where its own step ends; a step that was cut off takes its label with it."""
    tokenizer = load_tokenizer(str(project / "start"))
    labels = ((True, False, False, True), (False, True, True))
    texts = ("one\ntwo\nthree\nfour", "one\ntwo\nthree")
    prompt = Prompt(content="add")
    whole = steps_group(tokenizer, prompt, texts, [True, True], "\n")
    length = whole.masks[0].index(True) + 1
    length += whole.masks[0][length:].index(True) + 1
    cut = [Group(prompt=whole.prompt, completions=(ids[:n],), masks=(mask[:n],))
           for ids, mask, n in zip(whole.completions, whole.masks, (length, len(whole.masks[1])), strict=True)]  # fmt: skip
    batch = pack(cut)
    scored = Scored(
        batch=batch,
        records=[
            Steps(prompt=prompt, steps=("one", "two", "three", "four")[: len(good)], good=good)
            for good in labels
        ],
        scores=torch.zeros(2),
        token_scores=torch.zeros(batch.completion_mask.shape),
        scale=None,
    )
    good = scored.good_steps()
    found = [row[ends].tolist() for row, ends in zip(good, batch.completion_mask, strict=True)]
    assert found == [[True, False], [False, True, True]]
    assert not good[~batch.completion_mask].any()


def test_steps_are_written_and_read_back(tmp_path: Path) -> None:
    record = Steps(prompt=Prompt(content="a"), steps=("b", "c"), good=(True, False), annotator="x")
    write_jsonl([record], tmp_path / "steps.jsonl")
    assert load_records(tmp_path / "steps.jsonl").records == (record,)


@pytest.mark.parametrize("rule", ["minimum", "product", "last"])
def test_a_process_reward_model_is_read_at_its_steps(rule: Any, project: Path, tmp_path: Path) -> None:
    settings = config(project, tmp_path / "prm", "process", step_rule=rule, max_steps=4)
    logged(settings)
    model, tokenizer = load_reward_model(folder(settings), CPU), load_tokenizer(folder(settings))
    prompt, text = Prompt(content="sun"), "ba yes\nke no\nlo"
    group = steps_group(tokenizer, prompt, [text], [True], "\n")
    batch = pack([group])
    assert int(batch.completion_mask.sum()) == 3
    with torch.no_grad():
        at_steps = model.token_scores(batch)[batch.completion_mask]
    expected = {
        "minimum": min,
        "last": lambda each: each[-1],
        "product": lambda each: sum(map(log_sigmoid, each)),
    }
    (score,) = EnsembleScorer.load(folder(settings), CPU, start_world("cpu"), normalise=False)(
        [prompt], [text]
    )
    assert score == pytest.approx(expected[rule](at_steps.tolist()), abs=1e-5)


def log_sigmoid(x: float) -> float:
    return float(-np.logaddexp(0, -x))


@tiny.seeds(0, 1, 2)
@pytest.mark.parametrize("task", TASKS)
def test_the_rule_is_found(task: str, seed: int, project: Path, tmp_path: Path) -> None:
    assert TASKS[task](project, tmp_path / "task", seed) >= 0.9


# Trajectories


def test_a_model_of_segments_sums_its_tokens(project: Path, tmp_path: Path) -> None:
    settings = config(project, tmp_path / "segments", "segments", random_share=0.1, max_steps=4)
    logged(settings)
    model, tokenizer = load_reward_model(folder(settings), CPU), load_tokenizer(folder(settings))
    batch = pack([completions_group(tokenizer, Prompt(content="sun"), ["b!", "oak and"])])
    with torch.no_grad():
        torch.testing.assert_close(model(batch), model.token_scores(batch).sum(1))
    # From then on trained by another loss it is read as that one says.
    again = replace(
        config(project, tmp_path / "again", "bradley_terry", max_steps=1),
        model=folder(settings),
        keep_head=True,
    )
    logged(again)
    assert stored_reading(folder(again)).at == "last"


# Scales


def test_a_scale_is_stored_with_its_levels(project: Path, tmp_path: Path) -> None:
    source = Data(source=str(ratings(tmp_path / "ratings.jsonl")), heldout=0.25)
    settings = replace(config(project, tmp_path / "ordinal", "ordinal", epochs=2), data=source)
    rows = logged(settings)
    assert rows[0]["loss"] == pytest.approx(np.log(3), abs=0.35)  # about the entropy of the levels
    stored = AutoConfig.from_pretrained(folder(settings))
    assert stored.reward_levels == [1, 2, 5]
    assert stored.reward_thresholds == sorted(stored.reward_thresholds)


def test_thresholds_begin_at_the_shares() -> None:
    scale = Thresholds([1.0, 1.0, 2.0, 5.0])
    thresholds = scale().tolist()
    assert thresholds == pytest.approx([np.log(0.5 / 0.5), np.log(0.75 / 0.25)], abs=1e-5)
    assert scale.expected(torch.zeros(1)).item() == pytest.approx((1 + 1 + 2 + 5) / 4, abs=1e-5)
    assert scale.level_of([5.0, 1.0]).tolist() == [2, 0]
    with pytest.raises(InputError, match="rating is 3"):
        scale.level_of([3.0])
    with pytest.raises(InputError, match="levels"):
        Thresholds([1.0, 1.0])


@pytest.mark.parametrize("lora", [LoRA(), LoRA(rank=2, alpha=8.0)])
def test_a_resumed_scale_goes_on(
    lora: LoRA, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # R1
    def settings(out: str) -> RewardConfig:
        basic = config(project, tmp_path / out, "ordinal", max_steps=4, lora=lora, length_residual=True)
        source = Data(source=str(ratings(tmp_path / "ratings.jsonl")), heldout=0.25)
        return replace(basic, data=source)

    reward.train(settings("whole"))
    assert train_with_a_stop_after_every_step(settings("parted"), monkeypatch) == 4
    assert_same(tmp_path / "parted", tmp_path / "whole")
    whole, parted = (
        AutoConfig.from_pretrained(tmp_path / name / "final").to_dict() for name in ("whole", "parted")
    )
    for key in ("reward_thresholds", "reward_levels", "reward_reading", "reward_mean", "reward_std"):
        assert whole[key] == parted[key]
    assert whole["reward_reading"]["length_slope"] != 0


# Contexts


def test_contexts_are_read_written_and_swapped(project: Path, tmp_path: Path) -> None:
    file = in_contexts(tmp_path / "contexts.jsonl", count=4)
    records = load_comparisons(file).records
    assert records[1].context == "no"
    turned = records[0].in_opposite_context()
    assert (turned.context, turned.chosen) == ("no", records[0].rejected)
    assert turned.in_opposite_context() == records[0]
    write_jsonl(records, tmp_path / "again.jsonl")
    assert load_comparisons(tmp_path / "again.jsonl").records == records
    tokenizer, world = load_tokenizer(str(project / "start")), start_world("cpu")
    data = Data(source=str(file), heldout=0.0)
    both = comparisons(data, tokenizer, "", world, swap_contexts=True)
    assert len(both.train) == 8
    assert "flipped: 4" in both.read.summary
    expected = completions_group(
        tokenizer, Prompt(content="yes\n\nbaba"), [records[0].chosen, records[0].rejected]
    )
    assert both.train.groups[0] == expected
    # Contexts of one prompt are on one side of the split.
    many = Data(source=str(in_contexts(tmp_path / "many.jsonl", count=20)), heldout=0.5)
    parted = comparisons(many, tokenizer, "", world, swap_contexts=True)
    sides = [{record.prompt for record in part.records} for part in (parted.train, parted.heldout)]
    assert not sides[0] & sides[1]
    plain = in_contexts(tmp_path / "plain.jsonl", opposite=False)
    with pytest.raises(InputError, match="no comparison has an opposite_context"):
        comparisons(Data(source=str(plain)), tokenizer, "", world, swap_contexts=True)


# Lengths


def long_is_chosen(file: Path) -> Path:
    """`yes` is chosen before `no`, and the chosen one is mostly longer."""
    rows = []
    for i, word in enumerate(WORDS):
        short, long = word[:1], "ba ke lo mi nu"
        chosen, rejected = (long, short) if i % 5 else (short, long)
        rows.append({"prompt": word, "chosen": chosen + " yes", "rejected": rejected + " no"})
    write(file, rows)
    return file


@tiny.seeds(0, 1, 2)
def test_what_length_explains_is_taken_off(seed: int, project: Path, tmp_path: Path) -> None:
    settings = replace(
        config(project, tmp_path / "length", "bradley_terry", length_residual=True, epochs=3),
        data=Data(source=str(long_is_chosen(tmp_path / "long.jsonl")), heldout=0.25),
        run=RunSettings(out=str(tmp_path / "length"), seed=seed),
    )
    slope = logged(settings)[-1]["length_slope"]
    assert slope > 0
    name, world = folder(settings), start_world("cpu")
    model, tokenizer = load_reward_model(name, CPU), load_tokenizer(name)
    groups = comparisons(settings.data, tokenizer, "", world).heldout.groups
    batch = pack(groups)
    lengths = torch.tensor([float(len(each)) for group in groups for each in group.completions])
    assert model.completion_lengths(batch).tolist() == lengths.tolist()
    with torch.no_grad():
        scores, before = model(batch), model.token_scores(batch)
    last = (batch.completion_mask.sum(1, keepdim=True) - 1).clamp(min=0)
    raw = before.gather(1, last).squeeze(1)
    torch.testing.assert_close(scores, raw - slope * (lengths - lengths.mean()), rtol=1e-4, atol=1e-4)
    correlation = np.corrcoef(scores.numpy(), lengths.numpy())[0, 1]
    assert abs(correlation) < 1e-3 < np.corrcoef(raw.numpy(), lengths.numpy())[0, 1]
    # The moments are those of what is read.
    config_ = AutoConfig.from_pretrained(name)
    assert config_.reward_mean == pytest.approx(scores.mean().item(), abs=1e-4)
    assert config_.reward_std == pytest.approx(scores.std().item(), rel=1e-3)


# Pretraining


@tiny.seeds(0, 1, 2)
def test_preference_pretraining_helps_where_comparisons_are_few(
    seed: int, project: Path, tmp_path: Path
) -> None:
    """A run on weak comparisons, then one on few good ones that keeps the head: better than the few alone."""
    alone, after = pretrained(project, tmp_path / "pmp", seed)
    assert after >= 0.9
    assert after > alone + 0.03


def test_models_together_know_more_than_one(project: Path, tmp_path: Path) -> None:
    """Four of the same noisy comparisons, other seeds: their mean orders new pairs better than one of them does on average.

    `python -m tests.reward_table` does it with three seeds.
    """
    found = ensembled(project, tmp_path / "ensemble", 0)
    assert found["mean"] > found["one alone"]


def test_settings_of_another_loss_are_refused(project: Path, tmp_path: Path) -> None:  # K7
    for loss, changes, said in (
        ("binary", {"random_share": 0.1}, "random_share"),
        ("binary", {"step_rule": "last"}, "step_rule"),
        ("segments", {"step_separator": "\n\n"}, "step_separator"),
        ("regression", {"swap_contexts": True}, "reads no comparisons"),
    ):
        with pytest.raises(InputError, match=said):
            config(project, tmp_path / "no", loss, **changes)


def test_rules_of_steps_by_hand() -> None:
    scores, ends = torch.tensor([[3.0, -1.0, 0.5]]), torch.tensor([[True, True, False]])
    assert steps_minimum(scores, ends).tolist() == [-1.0]
    assert steps_product(scores, ends).item() == pytest.approx(log_sigmoid(3.0) + log_sigmoid(-1.0))
    assert isinstance(Comparison(prompt=Prompt(content="a"), chosen="b", rejected="c").context, str)
