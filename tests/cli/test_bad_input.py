"""Bad input, command by command: exit code 2, a line that says what is wrong and the way out, and nothing written."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prefloop.cli import main
from prefloop.configs.common import Compute
from prefloop.models.load import load_policy
from prefloop.text import load_tokenizer, train_tokenizer
from tests.tiny_project import (
    WORLD,
    make_comparisons,
    make_demonstrations,
    make_model,
    make_prompts,
    make_texts,
)

CPU = "--compute.device cpu"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a file of every kind."""
    folder = tmp_path_factory.mktemp("input")
    make_model(folder / "model")
    make_demonstrations(folder / "demos.jsonl")
    make_comparisons(folder / "pairs.jsonl")
    make_prompts(folder / "prompts.jsonl")
    make_texts(folder / "texts.jsonl")
    return folder


@pytest.fixture
def here(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them to work in and to spoil."""
    shutil.copytree(source, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


Run = Callable[..., str]


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that must fail, and give its line back."""

    def run(line: str, *, leaves: str = "out") -> str:
        before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
        assert main(line.split()) == 2, capsys.readouterr()
        progress, mark, error = capsys.readouterr().err.partition("prefloop: error: ")
        assert mark
        assert "Traceback" not in progress + error
        assert not (here / leaves).exists()
        changed = [
            path
            for path in here.rglob("*")
            if path.is_file() and path.suffix != ".pyc" and path.stat().st_mtime_ns != before.get(path)
        ]
        assert [path.name for path in changed if not path.name.startswith("prefloop.db")] == []
        return error.strip()

    return run


def spoil(file: str, line: int, change: Callable[[dict[str, object]], object]) -> None:
    """Put something else into one line of a file."""
    lines = Path(file).read_text().splitlines()
    changed = change(json.loads(lines[line - 1]))
    lines[line - 1] = changed if isinstance(changed, str) else json.dumps(changed)
    Path(file).write_text("\n".join(lines) + "\n")


def edit_json(file: Path, **changes: object) -> None:
    """Change keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: "{half a row", "demos.jsonl:3: `line` is '{half a row': not JSON"),
        (lambda row: {"prompt": row["prompt"]}, "demos.jsonl:3: `completion` is missing"),
        (
            lambda row: row | {"completion": "  "},
            "demos.jsonl:3: `completion` is '  ': the completion is empty",
        ),
        (lambda row: row | {"completion": 7}, "demos.jsonl:3: `completion` is 7"),
        (lambda row: row | {"prompt": []}, "demos.jsonl:3: `prompt` is []"),
    ],
)
def test_malformed_rows(refused: Run, change: Callable[[dict[str, object]], object], said: str) -> None:
    spoil("demos.jsonl", 3, change)
    error = refused(f"sft --model model --data demos.jsonl --out out {CPU}")
    assert error.startswith(said)
    assert "skip_bad" in error


@pytest.mark.parametrize("flag", ["--skip-bad", "--skip_bad", "--data.skip_bad"])
def test_skip_bad_counts_and_lists_what_it_leaves_out(
    here: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:  # D5
    spoil("demos.jsonl", 3, lambda row: "x")
    line = f"sft --model model --data demos.jsonl {flag} --out out --max_steps 1 {CPU}"
    assert main(line.split()) == 0
    assert "1 bad rows left out: 3" in capsys.readouterr().err
    assert "1 bad rows left out: 3" in Path("out/log.txt").read_text()


@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_chosen_equal_to_rejected(refused: Run, stage: str) -> None:
    spoil("pairs.jsonl", 2, lambda row: row | {"rejected": row["chosen"]})
    assert refused(f"{stage} --model model --data pairs.jsonl --out out {CPU}").startswith(
        "pairs.jsonl:2: `chosen` is "
    )


@pytest.mark.parametrize(
    "stage",
    [
        "sft --out out --data demos.jsonl",
        "dpo --out out --data pairs.jsonl",
        "reward --out out --data pairs.jsonl",
        "ppo --out out --data prompts.jsonl --reward_model likes:it --critic.start policy",
        "sample --store s.db --data prompts.jsonl",
    ],
)
def test_a_prompt_longer_than_the_budget(refused: Run, stage: str) -> None:
    error = refused(f"{stage} --model model --data.max_prompt_tokens 5 {CPU}")
    assert "the prompt has " in error
    assert (
        "above max_prompt_tokens = 5; raise the budget, shorten the text, or set overlong to drop or truncate"
        in error
    )
    assert ".jsonl:1" in error


@pytest.mark.parametrize(
    "stage", ["sft --data demos.jsonl", "dpo --data pairs.jsonl", "reward --data pairs.jsonl"]
)
def test_longer_than_the_model_reads(refused: Run, here: Path, stage: str) -> None:
    """Within the budgets, and above the model's positions: said of the row before the first step, not when its turn comes."""
    file = stage.split()[-1]
    spoil(
        file,
        5,
        lambda row: {name: f"{text}{' and more' * 30}" for name, text in row.items() if name != "margin"},
    )
    error = refused(f"{stage} --model model --out out --max_steps 1 --batch_size 1 {CPU}")
    assert error.startswith(f"{file}:5: the prompt with its longest completion has ")
    assert "but llama at model has 256 positions; shorten it, or lower data.max_prompt_tokens" in error


@pytest.mark.parametrize(
    "stage",
    [
        "ppo --out out --reward_model likes:it --critic.start policy --steps 1 --batch_prompts 1",
        "sample --store s.db",
    ],
)
def test_a_prompt_that_leaves_no_room_to_answer(refused: Run, here: Path, stage: str) -> None:
    (here / "likes.py").write_text("def it(prompts, completions):\n    return [1.0] * len(completions)\n")
    spoil("prompts.jsonl", 6, lambda row: {"prompt": "zq" * 120})
    error = refused(
        f"{stage} --model model --data prompts.jsonl --data.heldout 0 --sampling.max_new_tokens 32 {CPU}"
    )
    assert error.startswith("prompts.jsonl:6: the prompt with sampling.max_new_tokens = 32 has ")
    assert "256 positions; shorten the prompt, or lower " in error


def test_blocks_longer_than_the_model_reads(refused: Run) -> None:
    error = refused(f"pretrain --model model --data texts.jsonl --out out --block_tokens 300 {CPU}")
    assert error == "a block has 300 tokens, but llama at model has 256 positions; lower block_tokens"


@pytest.mark.parametrize(
    "stage",
    ["dpo --data pairs.jsonl", "ppo --data prompts.jsonl --reward_model likes:it --critic.start policy"],
)
def test_a_reference_with_other_tokens(refused: Run, here: Path, stage: str) -> None:  # K9
    """As many embeddings, so nothing would fail: its log-probabilities would be those of another text."""
    (here / "likes.py").write_text("def it(prompts, completions):\n    return [1.0] * len(completions)\n")
    make_model(here / "second", seed=3)
    train_tokenizer((f"zebra {n} quay" for n in range(99)), vocab_size=290).save_pretrained("second")
    error = refused(f"{stage} --model model --reference second --out out {CPU}")
    assert error.startswith("reference 'second' has a different tokenizer from 'model'")


def test_a_completion_longer_than_the_budget(refused: Run) -> None:
    error = refused(f"sft --model model --data demos.jsonl --out out --data.max_completion_tokens 5 {CPU}")
    assert "above max_completion_tokens = 5" in error


def test_a_tokenizer_without_an_end_token(refused: Run, here: Path) -> None:
    edit_json(here / "model" / "tokenizer_config.json", eos_token=None)
    error = refused(f"sft --model model --data demos.jsonl --out out {CPU}")
    assert "has no end token, so nothing would teach a model to stop; set eos_token" in error


@pytest.mark.parametrize(
    "stage",
    [
        "sft --data demos.jsonl",
        "reward --data pairs.jsonl",
        "dpo --data pairs.jsonl",
        "pretrain --data texts.jsonl",
    ],
)
def test_pad_equal_to_end_simply_works(here: Path, stage: str) -> None:  # M1
    edit_json(here / "model" / "tokenizer_config.json", pad_token="<|eos|>")
    tokenizer = load_tokenizer("model")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    size = "--block_tokens 16 --batch_blocks 2" if stage.startswith("pretrain") else "--batch_size 2"
    assert main(f"{stage} --model model --out out --max_steps 1 {size} {CPU}".split()) == 0


@pytest.mark.parametrize(
    "stage", ["sft --data demos.jsonl", "reward --data pairs.jsonl", "dpo --data pairs.jsonl"]
)
def test_a_tokenizer_of_another_model(here: Path, stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    larger = train_tokenizer((text.text for text in WORLD.texts(50)), vocab_size=400)
    larger.save_pretrained("model")
    assert main(f"{stage} --model model --out out {CPU}".split()) == 2
    error = capsys.readouterr().err
    assert "has token " in error
    assert "but the model has 300 embeddings; use the model's own tokenizer" in error
    assert not Path("out/final").exists()
    assert not Path("out/checkpoints").exists()


def test_a_model_that_is_not_there_or_is_something_else(refused: Run, here: Path) -> None:
    assert "there is no folder './none'" in refused(f"sft --model ./none --data demos.jsonl --out out {CPU}")
    (here / "model" / "model.safetensors").unlink()
    assert main(f"sft --model model --data demos.jsonl --out other {CPU}".split()) == 2


def test_a_reward_model_is_no_policy_and_a_policy_no_reward_model(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            f"reward --model model --data pairs.jsonl --out reward --max_steps 1 --batch_size 2 {CPU}".split()
        )
        == 0
    )
    capsys.readouterr()
    assert main(f"dpo --model reward/final --data pairs.jsonl --out dpo {CPU}".split()) == 2
    assert "(a reward model is not a policy)" in capsys.readouterr().err
    line = f"ppo --model model --reward_model model --data prompts.jsonl --out ppo --sampling.max_new_tokens 4 {CPU}"
    assert main(line.split()) == 2
    assert "train one with `prefloop reward`" in capsys.readouterr().err


def test_going_on_with_another_model_or_other_data(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_model(here / "second", seed=3)
    line = f"sft --model model --data demos.jsonl --out out --max_steps 1 --batch_size 2 {CPU}"
    assert main(line.split()) == 0
    saved = (here / "out" / "final" / "model.safetensors").read_bytes()
    for change in (
        ("--model model", "--model second"),
        ("demos.jsonl", "pairs.jsonl"),
        ("--batch_size 2", "--batch_size 3"),
    ):
        capsys.readouterr()
        assert main([*line.replace(*change).split(), "--resume"]) == 2
        assert "prefloop: error: " in capsys.readouterr().err
    assert (here / "out" / "final" / "model.safetensors").read_bytes() == saved


def test_a_run_folder_is_not_written_over(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"sft --model model --data demos.jsonl --out out --max_steps 1 --batch_size 2 {CPU}"
    assert main(line.split()) == 0
    saved = {path: path.read_bytes() for path in (here / "out").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(line.split()) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (here / "out").rglob("*") if path.is_file()} == saved


@pytest.mark.parametrize(
    "line",
    [
        "label simulate --store s.db",
        "data export --store s.db --out x.jsonl",
        "data import pairs.jsonl --store s.db",
        "lineage x --store s.db",
        f"sample --model model --data prompts.jsonl --store s.db {CPU}",
        f"reward --model model --data store --store s.db --out out {CPU}",
    ],
)
def test_a_store_that_cannot_be_read(refused: Run, here: Path, line: str) -> None:
    (here / "s.db").write_text("this is no database, whatever its name says; " * 40)
    error = refused(line)
    assert error.startswith("s.db: file is not a database; name a file that prefloop wrote")
    assert (here / "s.db").read_text().startswith("this is no database")


def test_dtype_and_device(refused: Run) -> None:
    error = refused("sft --model model --data demos.jsonl --out out --compute.dtype flaot32")
    assert (
        error == "--compute.dtype is 'flaot32'; it must be one of float32, bfloat16 (did you mean float32?)"
    )
    Path("s.yaml").write_text("compute:\n  dtype: float16\n")
    assert refused("sft --config s.yaml").startswith(
        "s.yaml:2: compute.dtype is 'float16'; it must be one of"
    )


def test_contradictory_settings(refused: Run) -> None:
    line = f"ppo --model model --reward_model likes:it --data prompts.jsonl --out out {CPU}"
    assert "set critic.start to `policy` or `shared`" in refused(line)
    line += " --critic.start policy"
    assert "top_p and sampling.top_k must be off in PPO" in refused(f"{line} --sampling.top_p 0.9")
    assert "PPO must explore" in refused(f"{line} --sampling.temperature 0")
    assert "set both, or neither" in refused(f"{line} --ptx texts.jsonl")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return [0.0]", "reward function likes:it returned 1 values for 4 completions"),
        ("return [float('nan')] * len(completions)", "returned nan for item 0"),
        ("return 'high'", "returned 'high' of type str; it must return a sequence of 4 numbers"),
        ("return None", "returned None of type NoneType"),
        ("return 1 / 0", "reward function likes:it raised ZeroDivisionError: division by zero ("),
    ],
)
def test_a_reward_function_that_returns_something_else(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], body: str, said: str
) -> None:
    (here / "likes.py").write_text(f"def it(prompts, completions):\n    {body}\n")
    monkeypatch.delitem(sys.modules, "likes", raising=False)
    line = (
        f"ppo --model model --reward_model likes:it --critic.start policy --data prompts.jsonl --out out --steps 1 "
        f"--batch_prompts 4 --sampling.max_new_tokens 4 {CPU}"
    )
    assert main(line.split()) == 2
    assert said in capsys.readouterr().err
    assert not Path("out/final").exists()


def test_a_reward_function_that_is_not_there(refused: Run) -> None:
    line = f"ppo --model model --reward_model none_such:f --critic.start policy --data prompts.jsonl --steps 1 {CPU}"
    assert "there is no module 'none_such'" in refused(f"{line} --out out", leaves="out/final")


def test_data_that_is_not_there_or_empty(refused: Run) -> None:
    assert refused(f"sft --model model --data none.jsonl --out out {CPU}").startswith(
        "none.jsonl: there is no such file"
    )
    Path("empty.jsonl").write_text("")
    assert "empty.jsonl" in refused(f"sft --model model --data empty.jsonl --out out {CPU}")
    assert refused(f"sft --model model --out out {CPU}").startswith("data.source is empty; name a file")


def test_a_split_that_is_not_there(refused: Run) -> None:  # K7
    for line in ("sft --model model --data demos.jsonl", "data check demos.jsonl", "data import demos.jsonl"):
        split, out = ("--split", "--store out") if "import" in line else ("--data.split", f"--out out {CPU}")
        if "check" in line:
            split, out = "--split", ""
        assert "split is 'test', but demos.jsonl has no splits" in refused(f"{line} {split} test {out}")
    error = refused("data check demos.jsonl --against pairs.jsonl --against_split dev")
    assert "against_split is 'dev', but pairs.jsonl has no splits" in error
    assert "split, format, columns and chat describe the rows of a file, but source is the store" in refused(
        f"sft --model model --data store --data.split test --out out {CPU}"
    )
    assert main(["data", "check", "demos.jsonl", "--against", "pairs.jsonl"]) == 0


def test_data_of_another_kind(refused: Run) -> None:
    error = refused(f"dpo --model model --data demos.jsonl --out out {CPU}")
    assert "demos.jsonl" in error
    assert "comparison" in error
    error = refused(f"sft --model model --data pairs.jsonl --out out {CPU}")
    assert "pairs.jsonl" in error


def test_the_program_itself(here: Path) -> None:
    """What the tests above see inside Python is what a shell sees."""
    spoil("pairs.jsonl", 2, lambda row: row | {"rejected": row["chosen"]})
    command = [
        sys.executable,
        "-m",
        "prefloop",
        *f"dpo --model model --data pairs.jsonl --out out {CPU}".split(),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("prefloop: error: pairs.jsonl:2: `chosen` is ")
    assert done.stderr.count("\n") == 1


def test_the_models_here_are_whole(here: Path) -> None:
    """The failures above are those of the input."""
    assert load_policy("model", Compute(device="cpu")).model.num_parameters() > 0
