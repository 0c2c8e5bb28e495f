"""`prefloop run toy` at its smallest: every stage, the summary, the report, the lineage, and going on."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prefloop.configs.common import Compute
from prefloop.configs.recipes import ToyConfig
from prefloop.data.store import Filters, Store
from prefloop.data.store.lineage import lineage
from prefloop.errors import InputError
from prefloop.evaluation import read_summary
from prefloop.recipes import toy
from prefloop.recipes.run import run_recipe
from tests.recipes.minimal import made, shrink


def config(out: Path) -> ToyConfig:
    return ToyConfig(
        out=str(out),
        texts=120,
        demonstrations=60,
        prompts=40,
        pairs=24,
        eval_prompts=6,
        compute=Compute(device="cpu"),
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, made once."""
    torch.set_num_threads(1)
    real = toy.plan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "plan", lambda config, project: shrink(real(config, project)))
        out = tmp_path_factory.mktemp("recipe") / "toy"
        report = run_recipe(config(out))
    assert report == out / "report.html"
    return out


def test_the_summary_has_what_it_promises(project: Path) -> None:
    summary = json.loads((project / "summary.json").read_text())
    assert summary["recipe"] == "toy"
    assert summary["seconds"] > 0
    assert summary["peak_rss_mb"] > 0
    assert set(summary["reward_model"]["accuracy"]) == {"value", "low", "high", "n"}
    assert 0.5 <= summary["reward_model"]["ceiling"] <= 0.9
    assert [policy["name"] for policy in summary["policies"]] == ["sft", "ppo", "dpo"]
    for policy in summary["policies"]:
        assert policy["checkpoint"] == f"{policy['name']}/final"
        for name in ("gold", "proxy", "kl", "win_rate_vs_sft", "length", "repetition"):
            assert {"value", "low", "high", "n"} <= set(policy[name]), name
            assert policy[name]["low"] <= policy[name]["value"] <= policy[name]["high"]
            assert policy[name]["n"] <= 6 * 12
    stages = [stage["stage"] for stage in summary["stages"]]
    assert stages == ["pretrain", "sft", "sample", "compare", "reward", "ppo", "dpo", "evaluate"]
    assert read_summary(project / "summary.json").seed == 0


def test_the_report_is_one_file_with_everything_inside(project: Path) -> None:
    text = (project / "report.html").read_text()
    assert "<svg" in text
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)
    assert not re.search(r"<link[^>]+stylesheet|@import|<script[^>]+src", text)
    for words in ("sft", "ppo", "dpo", "simulated"):
        assert words in text


def test_the_lineage_names_labels_annotator_and_data(project: Path) -> None:
    with Store.open(project / "prefloop.db", create=False) as store:
        for stage in ("ppo", "dpo"):
            text = str(lineage(store, str(project / stage / "final")))
            assert "simulated" in text
            assert "demonstrations.jsonl" in text
            assert "texts.jsonl" in text
            assert "sft/final" in text
        assert "reward/final" in str(lineage(store, str(project / "ppo/final")))


def test_comparisons_are_as_many_as_asked_for_and_their_prompts_are_parted(project: Path) -> None:
    """What evaluation used, nothing was trained on."""
    with Store.open(project / "prefloop.db", create=False) as store:
        everything = store.comparisons().records
        train = store.comparisons(Filters(part="train", heldout=toy.HELDOUT)).records
        heldout = store.comparisons(Filters(part="heldout", heldout=toy.HELDOUT)).records
    assert len(everything) <= 24
    assert len(train) + len(heldout) == len(everything)
    assert heldout
    assert not {c.prompt.sha256 for c in train} & {c.prompt.sha256 for c in heldout}
    evaluated = json.loads((project / "evaluation.json").read_text())["prompts"]
    asked = {json.dumps(prompt) for prompt in evaluated}
    assert len(asked) == len(evaluated)
    for stage in ("reward", "dpo"):
        assert f"held out {len(heldout)}" in (project / stage / "log.txt").read_text()


def test_a_finished_project_is_not_trained_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = toy.plan
    monkeypatch.setattr(toy, "plan", lambda config, project: shrink(real(config, project)))
    before, summary = made(project), json.loads((project / "summary.json").read_text())
    assert len(before) == 5
    run_recipe(replace(config(project), resume=True))
    assert made(project) == before
    after = json.loads((project / "summary.json").read_text())
    assert after["policies"] == summary["policies"]
    assert after["reward_model"] == summary["reward_model"]


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"not empty; add --resume true"):
        run_recipe(config(tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
