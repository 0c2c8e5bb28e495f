"""`prefloop reward` and `prefloop eval` on tiny models: what is measured, printed and written."""

import json
from pathlib import Path

import pytest

from prefloop.cli import main
from prefloop.cli.evaluate import policies_of
from prefloop.errors import InputError
from prefloop.evaluation import read_evaluation, read_summary
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
