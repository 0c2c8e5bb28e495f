"""`prefloop reward` and `prefloop eval` on tiny models: what is measured, printed and written."""

import json
import shutil
from pathlib import Path

import pytest

from prefloop.cli import main
from prefloop.errors import InputError
from prefloop.evaluation import read_evaluation, read_summary
from prefloop.evaluation.measure import policies_of
from tests.tiny_project import make_comparisons, make_model, make_prompts

CPU = "--compute.device cpu --data.heldout 0.4"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two policies, prompts and comparisons."""
    folder = tmp_path_factory.mktemp("evaluate")
    make_model(folder / "sft")
    make_model(folder / "other", seed=1)
    make_prompts(folder / "prompts.jsonl", count=12)
    make_comparisons(folder / "pairs.jsonl", count=24)
    return folder


def run(capsys: pytest.CaptureFixture[str], line: str, code: int = 0) -> str:
    assert main(line.split()) == code, capsys.readouterr().err
    out, err = capsys.readouterr()
    return err if code else out


@pytest.fixture(scope="module")
def reward_model(project: Path) -> Path:
    line = f"reward --model {project}/sft --data {project}/pairs.jsonl --out {project}/reward --batch_size 8 --optim.lr 1e-3 {CPU}"
    assert main(line.split()) == 0
    return project / "reward" / "final"


def test_a_reward_model_is_measured_on_what_was_held_out(reward_model: Path) -> None:
    quality = json.loads((reward_model.parent / "heldout.json").read_text())
    accuracy = quality["accuracy"]
    assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
    assert 0 < accuracy["n"] < 24
    metrics = [json.loads(line) for line in (reward_model.parent / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["heldout_accuracy"] == pytest.approx(accuracy["value"], abs=1e-6)
    assert quality["calibration"]["bins"]
    assert quality["length"]["bins"]


def test_its_numbers_are_printed_with_intervals(
    project: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = f"reward --model {project}/sft --data {project}/pairs.jsonl --out {tmp_path}/reward {CPU}"
    out = run(capsys, line)
    assert "reward model, held-out prompts: accuracy " in out
    assert "hold out about " in out
    assert f"next: prefloop ppo --model MODEL --reward_model {tmp_path}/reward/final" in out
    out = run(capsys, line.replace("--data.heldout 0.4", "--data.heldout 0").replace("/reward ", "/all "))
    assert "no comparison is held out, so the reward model is not measured" in out


def test_eval_writes_what_the_report_reads(
    project: Path, reward_model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = (
        f"eval --policies sft={project}/sft ppo={project}/other --data {project}/prompts.jsonl --gold toy --reward_model {reward_model} "
        f"--comparisons {project}/pairs.jsonl --out {tmp_path} --sampling.max_new_tokens 6 {CPU}"
    )
    out = run(capsys, line)
    assert "wins against sft" in out
    assert "reward model, held-out prompts: accuracy " in out
    assert out.endswith(f"next: prefloop report {tmp_path}\n")
    summary = read_summary(tmp_path / "summary.json")
    evaluation = read_evaluation(tmp_path / "evaluation.json")
    assert [policy.name for policy in summary.policies] == ["sft", "ppo"]
    assert summary.policies[0].kl.value == 0
    assert summary.policies[1].kl.value > 0
    assert len(evaluation.prompts) == len(evaluation.policies[1].completions) > 0
    assert evaluation.reward_model is not None
    assert summary.reward_model is not None
    assert summary.reward_model.accuracy == evaluation.reward_model.accuracy
    run(capsys, f"report {tmp_path}")
    assert (tmp_path / "report.html").exists()


def test_eval_of_a_reward_model_alone(
    project: Path, reward_model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = f"eval --reward_model {reward_model} --comparisons {project}/pairs.jsonl --part all --out {tmp_path} {CPU}"
    out = run(capsys, line)
    assert "reward model, all prompts: accuracy " in out
    assert "on 24 comparisons" in out
    assert read_summary(tmp_path / "summary.json").policies == ()


BUDGET = 90
"""Tokens of a completion, which some of the toy world's replies are longer than and others not."""


def uneven(file: Path) -> Path:
    """Comparisons that nobody trained on: short ones, long ones, and two rows that are not comparisons."""
    make_comparisons(file, count=60)
    lines = file.read_text().splitlines()[30:]
    file.write_text("\n".join([*lines, '{"prompt": "x", "chosen": 3}', "{}"]) + "\n")
    return file


def test_what_is_not_measured_is_counted_in_output_and_summary(
    project: Path, reward_model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:  # D5 E2
    file = uneven(tmp_path / "other.jsonl")
    line = (
        f"eval --reward_model {reward_model} --comparisons {file} --out {tmp_path} {CPU} --data.skip_bad true "
        f"--data.max_completion_tokens {BUDGET} --data.overlong drop"
    )
    out = run(capsys, line)
    summary = read_summary(tmp_path / "summary.json")
    (data,) = summary.data
    assert summary.reward_model is not None
    assert data.measured == summary.reward_model.accuracy.n
    assert (data.what, data.source, data.rows) == ("comparisons", str(file), 32)
    assert data.left_out["bad rows"] == 2
    assert 0 < data.left_out["over the token budgets"] < 30
    assert data.measured + sum(data.left_out.values()) == data.rows
    assert f"{data.measured} comparisons of 32 rows in {file} are measured" in out
    assert f"2 bad rows, {data.left_out['over the token budgets']} over the token budgets" in out
    assert str(data) in summary.notes
    run(capsys, f"report {tmp_path}")
    assert "2 bad rows" in (tmp_path / "report.html").read_text()


def test_a_file_that_no_run_behind_the_model_read_is_measured_whole(
    project: Path, reward_model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:  # E1
    file = make_comparisons(tmp_path / "other.jsonl", count=20)
    common = f"--out {tmp_path}/e {CPU}"
    out = run(capsys, f"eval --reward_model {reward_model} --comparisons {file} {common}")
    assert f"20 comparisons of 20 rows in {file} are measured (part all: no run behind {reward_model}" in out
    copy = tmp_path / "copied" / "final"
    shutil.copytree(reward_model, copy)
    shutil.copy(project / "pairs.jsonl", tmp_path / "renamed.jsonl")
    store = f"--store {project}/prefloop.db"
    for model, name in ((reward_model, project / "pairs.jsonl"), (copy, tmp_path / "renamed.jsonl")):
        out = run(capsys, f"eval --reward_model {model} --comparisons {name} {common} {store}")
        assert f"(part heldout: run 1: reward, behind {model}, read it); left out: " in out
    shutil.copy(reward_model.parent / "config.yaml", copy.parent)
    out = run(capsys, f"eval --reward_model {copy} --comparisons {file} {common}")
    assert (
        f"(part heldout: no store says what {copy} was trained on; use --part all if it was not on this)"
        in out
    )
    policies = f"eval --policies sft={project}/sft --data {project}/prompts.jsonl --sampling.max_new_tokens 4 {common}"
    assert "12 prompts of 12 rows" in run(capsys, policies)
    assert "(part train); left out" in run(capsys, f"{policies} --part train")


def test_a_file_exported_from_the_store_that_was_trained_on_is_no_unseen_file(
    project: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:  # E1
    store = tmp_path / "prefloop.db"
    run(capsys, f"data import {project}/pairs.jsonl --store {store}")
    run(capsys, f"reward --model {project}/sft --data store --out {tmp_path}/reward {CPU}")
    run(capsys, f"data export --store {store} --out {tmp_path}/all.jsonl")
    line = f"eval --reward_model {tmp_path}/reward/final --out {tmp_path} {CPU} --comparisons"
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    (tmp_path / "some.jsonl").write_text("\n".join(lines[:20]) + "\n")
    out = run(capsys, f"{line} {tmp_path}/some.jsonl")
    assert f"(part heldout: run 1: reward, behind {tmp_path}/reward/final, read 20 of its 20 prompts)" in out
    assert "(part heldout: run 1: reward, " in run(capsys, f"{line} store")


def test_what_was_not_held_out_in_training_raises_an_alarm(
    project: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:  # E1
    pairs = f"{project}/pairs.jsonl"
    train = f"reward --model {project}/sft --data {pairs} --out {tmp_path}/reward --compute.device cpu --data.heldout"
    line = f"eval --reward_model {tmp_path}/reward/final --comparisons {pairs} --data {pairs} --out {tmp_path} {CPU}"
    run(capsys, f"{train} 0")
    assert f"! run 1: reward trained {tmp_path}/reward/final on all of {pairs} (data.heldout 0)" in run(
        capsys, line
    )
    assert "nothing in it is unseen" in read_summary(tmp_path / "summary.json").alarms[0]
    shutil.rmtree(tmp_path / "reward")
    run(capsys, f"{train} 0.2")
    assert "so part of what is held out here (0.4) was trained on; give --data.heldout 0.2" in run(
        capsys, line
    )


def test_a_reward_model_trained_on_cut_texts_is_measured_on_cut_texts(
    project: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:  # K7
    options = (
        f"{CPU} --data.max_completion_tokens {BUDGET} --data.max_prompt_tokens 30 --data.overlong truncate"
    )
    line = f"reward --model {project}/sft --data {project}/pairs.jsonl --out {tmp_path}/reward {options} --batch_size 8 --optim.lr 1e-2"
    out = run(capsys, line)
    quality = json.loads((tmp_path / "reward/heldout.json").read_text())
    assert quality["data"]["truncated"] > 0
    assert quality["data"]["measured"] == quality["accuracy"]["n"] > 0
    assert "of the rows are truncated to the token budgets" in out
    rows = [json.loads(row) for row in (tmp_path / "reward/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["heldout_loss"] == pytest.approx(quality["calibration"]["log_loss"]["value"], abs=1e-4)
    measured = f"eval --reward_model {tmp_path}/reward/final --comparisons {project}/pairs.jsonl --out {tmp_path} {options}"
    run(capsys, measured)
    evaluation = read_evaluation(tmp_path / "evaluation.json")
    assert evaluation.reward_model is not None
    again = evaluation.reward_model.calibration.log_loss.value
    assert again == pytest.approx(quality["calibration"]["log_loss"]["value"], abs=1e-4)
    cut = f"{CPU} --data.max_prompt_tokens 30 --data.overlong truncate --sampling.max_new_tokens 4"
    policies = f"eval --policies sft={project}/sft --data {project}/prompts.jsonl --out {tmp_path} {cut}"
    run(capsys, policies)
    assert read_summary(tmp_path / "summary.json").data[0].truncated > 0


def test_what_the_evaluation_refuses_is_refused_before_the_first_step(
    project: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = f"--policies sft={project}/sft --data {project}/prompts.jsonl --out {tmp_path}/e {CPU}"
    for words, message in (
        ("--sampling.max_new_tokens 250", "tokens, but llama at "),
        (
            f"--reward_model {project}/sft --comparisons {project}/pairs.jsonl --data.max_completion_tokens {BUDGET}",
            "above max_completion_tokens",
        ),
    ):
        assert main(f"eval {common} {words}".split()) == 2
        out, error = capsys.readouterr()
        assert message in error
        assert "evaluating sft" not in out

    def refuse(*args: object, **options: object) -> None:
        raise InputError("not this file")

    monkeypatch.setattr("prefloop.recipes.reward.comparisons", refuse)
    line = f"reward --model {project}/sft --data {project}/pairs.jsonl --out {tmp_path}/reward {CPU}"
    assert "not this file" in run(capsys, line, code=2)
    assert not (tmp_path / "reward").exists()


def test_a_split_is_said_of_the_prompts_where_comparisons_are_a_file(
    project: Path, reward_model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "prompts").mkdir()
    for name in ("train", "test"):
        rows = (project / "prompts.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / f"prompts/{name}.jsonl").write_text("".join(rows[:2] if name == "test" else rows))
    line = (
        f"eval --policies sft={project}/sft --data {tmp_path}/prompts --data.split test --reward_model {reward_model} "
        f"--comparisons {project}/pairs.jsonl --out {tmp_path}/e --sampling.max_new_tokens 4 --part all {CPU}"
    )
    run(capsys, line)
    read = [part.rows for part in read_summary(tmp_path / "e/summary.json").data]
    assert read == [2, len((project / "pairs.jsonl").read_text().splitlines())]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "there is nothing to measure; give policies as name=folder"),
        ("--policies sft=./none", "there is no folder './none' to load a tokenizer from"),
        ("--policies somewhere", "policies has 'somewhere'; write it as name=folder"),
        ("--policies a=b --comparisons c", "comparisons is 'c' without reward_model"),
    ],
)
def test_mistakes(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: str,
    message: str,
) -> None:
    error = run(capsys, f"eval {words} --data {project}/prompts.jsonl --out {tmp_path}/p {CPU}", code=2)
    assert message in error
    assert not (tmp_path / "p").exists()


def test_every_policy_has_a_name_of_its_own() -> None:
    assert policies_of(("sft=a/b", "ppo=c=d")) == {"sft": "a/b", "ppo": "c=d"}
    with pytest.raises(InputError, match="policies names 'a' twice, x and y"):
        policies_of(("a=x", "a=y"))
