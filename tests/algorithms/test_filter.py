"""Flipped labels are what a reward model disagrees with: filtering leaves them out or turns them round."""

from dataclasses import replace
from pathlib import Path

import pytest

from prefloop.algorithms import reward
from prefloop.algorithms.filter import filter_by_margin, filter_comparisons
from prefloop.configs.common import Data
from prefloop.configs.filter import FilterConfig
from prefloop.data import load_comparisons
from prefloop.errors import InputError
from prefloop.records import Comparison, Prompt
from prefloop.text import encode_completion, load_tokenizer
from tests.algorithms.small import write
from tests.algorithms.test_reward import config
from tests.algorithms.tiny import CPU


def test_margins_decide_by_hand() -> None:
    records = [
        Comparison(prompt=Prompt(content=str(i)), chosen="a", rejected="b", margin=float(i)) for i in range(5)
    ]
    margins = [1.0, 0.4, 0.0, -0.4, -1.0]
    dropped = filter_by_margin(records, margins, least=0.5, disagreed="drop")
    assert dropped.kept == (records[0],)
    assert (dropped.agreed, dropped.ambiguous, dropped.disagreed) == (1, 3, 1)
    flipped = filter_by_margin(records, margins, least=0.0, disagreed="flip")
    assert flipped.kept == (records[0], records[1], records[3].swap(), records[4].swap())
    assert flipped.ambiguous == 1  # a margin of zero says nothing
    kept = filter_by_margin(records, margins, least=0.5, disagreed="keep")
    assert kept.kept == (records[0], records[4])


def test_flipped_labels_are_found(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = config(project, tmp_path / "reward")
    folder = str(reward.train(settings))
    clean = load_comparisons(settings.data.source).records
    noisy = [record.swap() if i % 4 == 0 else record for i, record in enumerate(clean)]
    rows = [
        {"prompt": record.prompt.content, "chosen": record.chosen, "rejected": record.rejected}
        for record in noisy
    ]
    write(tmp_path / "noisy.jsonl", rows)
    asked = FilterConfig(
        data=Data(source=str(tmp_path / "noisy.jsonl"), heldout=0.0),
        reward_models=(folder,),
        out=str(tmp_path / "flipped.jsonl"),
        disagreed="flip",
        compute=CPU,
    )
    filter_comparisons(asked)
    assert "(flipped)" in capsys.readouterr().out
    found = load_comparisons(tmp_path / "flipped.jsonl").records
    assert sum(record.chosen.endswith("yes") for record in found) > 0.95 * len(clean)
    filter_comparisons(replace(asked, disagreed="drop", out=str(tmp_path / "dropped.jsonl")))
    left = load_comparisons(tmp_path / "dropped.jsonl").records
    assert 0.7 * len(clean) < len(left) < 0.8 * len(clean)
    with pytest.raises(InputError, match="lower least_margin"):
        filter_comparisons(replace(asked, least_margin=1e6))


def test_models_read_no_more_than_the_budgets(project: Path, tmp_path: Path) -> None:
    """The beginnings that the budget leaves decide; what comes after them would have said the opposite."""
    settings = config(project, tmp_path / "reward")
    folder = str(reward.train(settings))
    rows = [
        {"prompt": word, "chosen": " yes" + " no" * 4, "rejected": " no" + " yes" * 4}
        for word in ("bake", "mira", "seto", "lonu")
    ]
    write(tmp_path / "pairs.jsonl", rows)
    budget = len(encode_completion(load_tokenizer(folder), Prompt(content="bake"), " yes", ended=False))
    data = Data(
        source=str(tmp_path / "pairs.jsonl"),
        heldout=0.0,
        max_completion_tokens=budget,
        overlong="truncate",
    )
    asked = FilterConfig(data=data, reward_models=(folder,), out=str(tmp_path / "kept.jsonl"), compute=CPU)
    filter_comparisons(asked)
    assert len(load_comparisons(tmp_path / "kept.jsonl").records) == len(rows)
