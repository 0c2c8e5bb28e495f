"""`prefloop run toy` at its smallest: every stage, the summary, the report, the lineage, and going on."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prefloop.cli.flags import read_flags
from prefloop.configs.load import load_config
from prefloop.configs.recipes import ToyConfig
from prefloop.data.store import Filters, Store
from prefloop.data.store.lineage import lineage
from prefloop.errors import InputError
from prefloop.evaluation import read_summary
from prefloop.recipes import run as recipe
from prefloop.recipes import toy
from prefloop.recipes.run import run_recipe
from prefloop.runtime.interrupt import Interrupted
from tests.recipes.minimal import made, shrink, small_toy
from tests.runtime.processes import run_module


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, made once."""
    torch.set_num_threads(1)
    real = toy.plan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "plan", lambda config, project: shrink(real(config, project)))
        out = tmp_path_factory.mktemp("recipe") / "toy"
        report = run_recipe(small_toy(out))
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
            found = policy[name]  # where all prompts show one value, there is no interval
            assert found.get("no_spread") or found["low"] <= found["value"] <= found["high"], name
            assert policy[name]["n"] <= 6 * 12
    stages = [stage["stage"] for stage in summary["stages"]]
    assert stages == ["prepare", "pretrain", "sft", "sample", "compare", "reward", "ppo", "dpo", "evaluate"]
    assert summary["seconds"] == pytest.approx(sum(stage["seconds"] for stage in summary["stages"]))
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
    run_recipe(replace(small_toy(project), resume=True))
    assert made(project) == before
    after = json.loads((project / "summary.json").read_text())
    assert after["policies"] == summary["policies"]
    assert after["reward_model"] == summary["reward_model"]
    # What was done before still took its time.
    taken = {stage["stage"]: stage["seconds"] for stage in summary["stages"]}
    assert all(stage["seconds"] >= taken[stage["stage"]] for stage in after["stages"])
    assert after["peak_rss_mb"] >= summary["peak_rss_mb"]


def test_going_on_with_other_settings_is_refused_by_name(project: Path) -> None:
    """Finished stages are kept, so they would be reported under settings they were not made with."""
    before = made(project)
    with pytest.raises(InputError, match=r"started with other settings \(pairs: 24 -> 30; seed: 0 -> 1\)"):
        run_recipe(replace(small_toy(project), seed=1, pairs=30, resume=True))
    assert made(project) == before


def test_its_settings_can_be_read_back(project: Path) -> None:
    flags = read_flags(["--config", str(project / "config.yaml"), "--resume"], ToyConfig)
    assert load_config(ToyConfig, flags.config, flags.given) == replace(small_toy(project), resume=True)


@pytest.mark.parametrize(
    "said",
    ["stopped after step 2 of 6; the checkpoint is in X; resume with: prefloop pretrain --config Y", ""],
)
def test_an_interrupted_recipe_says_how_to_go_on_with_the_recipe(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> None:
        raise Interrupted(said) if said else KeyboardInterrupt

    monkeypatch.setattr(recipe.pretrain, "train", interrupted)
    with pytest.raises(Interrupted) as stop:
        run_recipe(small_toy(tmp_path / "toy"))
    assert str(stop.value) == (
        f"{said.partition('; resume')[0] or 'stopped'}; resume with: prefloop run toy --config {tmp_path}/toy/config.yaml --resume"
    )
    spent = json.loads((tmp_path / "toy/stages.json").read_text())["stages"]
    assert {name: each["done"] for name, each in spent.items()} == {"prepare": True, "pretrain": False}


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"not empty; add --resume true"):
        run_recipe(small_toy(tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"cannot write .*/file: a file is in the way; name another folder"):
        run_recipe(small_toy(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot write .*/file/toy: a part of the path is a file"):
        run_recipe(small_toy(tmp_path / "file/toy"))


def test_two_processes_make_what_one_makes(project: Path, tmp_path: Path) -> None:
    """Under torchrun the stages share the work; files are written, and the tables printed, by one."""
    run_module("tests.recipes.ranks", str(tmp_path), timeout=240)
    two = tmp_path / "toy"
    assert (tmp_path / "rank-0.out").read_text().count("reward model, held-out prompts") == 1
    assert (tmp_path / "rank-1.out").read_text() == ""
    assert (two / "report.html").exists()
    ours, theirs = (load_file(each / "sft/final/model.safetensors") for each in (two, project))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-5, msg=name)
    first, second = (json.loads((each / "summary.json").read_text()) for each in (two, project))
    for policy, other in zip(first["policies"], second["policies"], strict=True):
        assert policy["name"] == other["name"]
        for number in ("kl", "length", "gold"):
            assert policy[number]["n"] == other[number]["n"]
