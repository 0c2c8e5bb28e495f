"""Bad input stops a stage with one message that says what, where and what to do, and leaves nothing behind; odd but good input works."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from prefloop.configs.common import Data, Optim, Sampling, Selecting
from prefloop.configs.load import load_config
from prefloop.configs.ppo import KL, CriticSettings, PPOConfig
from prefloop.configs.sft import SFTConfig
from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.models.load import load_policy
from tests.algorithms import test_dpo, test_reward, test_sft, tiny
from tests.algorithms.small import metrics_of, train, write
from tests.algorithms.tiny import CPU, FAST, WORDS, logged

MAKE: Mapping[str, Callable[..., Any]] = {
    "sft": test_sft.config,
    "reward": test_reward.config,
    "dpo": test_dpo.config,
    "ppo": tiny.ppo,
}


def refused(config: Any, *, runs: int = 0) -> str:
    """What the run is refused with; it has left no run folder, no half of one, and in the store so many runs, marked as failed."""
    out = Path(config.run.out)
    with pytest.raises(InputError) as caught:
        train(config)
    assert not out.exists()
    store = out.parent / "prefloop.db"
    if store.is_file() and store.read_bytes()[:6] == b"SQLite":
        with Store.open(store) as opened:
            assert opened.counts()["training_run"] == runs
    return str(caught.value)


@pytest.mark.parametrize("stage", ["dpo", "ppo"])
def test_whose_judgements_is_a_question_to_the_store_only(
    stage: str, project: Path, tmp_path: Path
) -> None:  # K7
    config = MAKE[stage](project, tmp_path / "run")
    named = refused(replace(config, data=replace(config.data, select=Selecting(judged_by="human"))))
    assert named.startswith(f"data.select.judged_by is human, but {config.data.source} is not the store")


def with_rows(config: Any, rows: Sequence[Any], **changes: Any) -> Any:
    """The same stage on other rows; a string is written as it is."""
    file = Path(config.run.out).with_name("rows.jsonl")
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return replace(config, data=replace(config.data, source=str(file), **changes))


GOOD = {
    "sft": {"prompt": "a", "completion": "b"},
    "reward": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "dpo": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "ppo": {"prompt": "a"},
}


def good(stage: str, count: int = 5) -> list[dict[str, str]]:
    return [{**GOOD[stage], "prompt": word} for word in WORDS[:count]]


@pytest.mark.parametrize("stage", MAKE)
def test_malformed_rows(stage: str, project: Path, tmp_path: Path) -> None:
    config = with_rows(MAKE[stage](project, tmp_path / "run"), [*good(stage), "{broken", {"prompt": 3}])
    message = refused(config)
    assert "rows.jsonl:6" in message


@pytest.mark.parametrize("stage", MAKE)
def test_malformed_rows_can_be_skipped_and_are_counted(
    stage: str, project: Path, tmp_path: Path
) -> None:  # D5
    config = MAKE[stage](project, tmp_path / "run", optim=Optim(lr=0.0))
    limit = {"steps": 1, "batch_prompts": 2} if stage == "ppo" else {"max_steps": 1}
    config = with_rows(replace(config, **limit), [*good(stage), "{broken"], skip_bad=True, heldout=0.0)
    train(config)
    text = (tmp_path / "run/log.txt").read_text()
    assert "kept 5 of 5" in text
    assert "1 bad" in text or "bad 1" in text, text


@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_chosen_equal_to_rejected(stage: str, project: Path, tmp_path: Path) -> None:
    rows = [*good(stage), {"prompt": "a", "chosen": "same", "rejected": "same"}]
    message = refused(with_rows(MAKE[stage](project, tmp_path / "run"), rows))
    assert "rows.jsonl:6" in message
    assert "same" in message


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_empty_completion(stage: str, project: Path, tmp_path: Path) -> None:  # M15
    row = {key: "" if key in ("completion", "rejected") else value for key, value in GOOD[stage].items()}
    message = refused(with_rows(MAKE[stage](project, tmp_path / "run"), [*good(stage), row]))
    assert "rows.jsonl:6" in message
    assert "empty" in message


@pytest.mark.parametrize("stage", MAKE)
def test_a_prompt_over_the_budget(stage: str, project: Path, tmp_path: Path) -> None:  # D4 D5
    """An error unless the settings say otherwise; then it is counted, with where it came from."""
    long = "never ending " * 5
    rows = [*good(stage), {**GOOD[stage], "prompt": long}]
    base = MAKE[stage](project, tmp_path / "run", optim=Optim(lr=0.0))
    base = replace(base, **({"steps": 1, "batch_prompts": 2} if stage == "ppo" else {"max_steps": 1}))
    budget = {"max_prompt_tokens": 12, "heldout": 0.0}
    message = refused(with_rows(base, rows, **budget))
    assert "max_prompt_tokens = 12" in message
    assert "overlong" in message
    assert "rows.jsonl:6" in message
    for choice, said in (("drop", "dropped 1"), ("truncate", "truncated 1")):
        config = with_rows(base, rows, **budget, overlong=choice)
        config = replace(config, run=replace(config.run, out=str(tmp_path / choice)))
        train(config)
        text = (tmp_path / choice / "log.txt").read_text()
        assert said in text
        assert f"kept {5 + (choice == 'truncate')} of 6" in text


def test_a_completion_over_the_budget(project: Path, tmp_path: Path) -> None:  # D4 D5
    rows = [*good("dpo"), {"prompt": "a", "chosen": "b" * 40, "rejected": "c"}]
    config = with_rows(MAKE["dpo"](project, tmp_path / "run"), rows, max_completion_tokens=9)
    message = refused(config)
    assert "rows.jsonl:6" in message
    assert "max_completion_tokens = 9" in message


@pytest.fixture(scope="module")
def pad_is_eos(project: Path) -> str:
    """The starting model with a tokenizer whose padding token is its end token, as of many public models."""
    folder = project / "pad_is_eos"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(project / "start"))
    tokenizer.pad_token = tokenizer.eos_token
    policy = load_policy(str(project / "start"), CPU)
    policy.model.config.pad_token_id = tokenizer.eos_token_id
    policy.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_pad_equal_to_eos_trains_the_stop_in_every_stage(
    pad_is_eos: str, project: Path, tmp_path: Path
) -> None:  # M1 M14
    """The same numbers as with a padding token of its own, and completions that end."""
    ours = test_sft.config(project, tmp_path / "sft", model=pad_is_eos)
    theirs = test_sft.config(project, tmp_path / "sft_plain")
    assert logged(ours)[-1]["loss"] == logged(theirs)[-1]["loss"]
    sft = str(tmp_path / "sft/final")
    for name, make in (("reward", test_reward.config), ("dpo", test_dpo.config)):
        rows = logged(make(project, tmp_path / name, model=sft, max_steps=3))
        plain = str(tmp_path / "sft_plain/final")
        others = logged(make(project, tmp_path / f"{name}_plain", model=plain, max_steps=3))
        assert [row["loss"] for row in rows] == [row["loss"] for row in others]
    ppo = tiny.ppo(
        project,
        tmp_path / "ppo",
        model=sft,
        reward_model=str(tmp_path / "reward/final"),
        critic=CriticSettings(start="reward", optim=FAST),
        sampling=Sampling(max_new_tokens=16),
    )
    (row,) = logged(ppo)
    assert row["ended"] > 0.5  # it has learned to stop
    assert row["ratio"] < 1e-4


@pytest.mark.parametrize("stage", MAKE)
def test_a_tokenizer_without_an_end_token(stage: str, project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    load_policy(str(project / "start"), CPU).model.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(project / "start"))
    tokenizer.eos_token = None
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    message = refused(MAKE[stage](project, tmp_path / "run", model=str(folder)))
    assert "end token" in message or "eos_token" in message


@pytest.mark.parametrize("stage", MAKE)
def test_a_tokenizer_with_more_tokens_than_the_model(stage: str, project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    load_policy(str(project / "start"), CPU).model.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(project / "start"))
    tokenizer.add_tokens(["<one-more>"])
    tokenizer.save_pretrained(folder)
    message = refused(MAKE[stage](project, tmp_path / "run", model=str(folder)))
    assert "<one-more>" in message
    assert "embeddings" in message


@pytest.mark.parametrize("stage", MAKE)
def test_no_such_model(stage: str, project: Path, tmp_path: Path) -> None:
    message = refused(MAKE[stage](project, tmp_path / "run", model=str(tmp_path / "nowhere")))
    assert "nowhere" in message


def test_a_model_without_weights_leaves_nothing(project: Path, tmp_path: Path) -> None:
    """Found only after the data was read and the run folder made: both are as before."""
    for stage, make in MAKE.items():
        folder = tmp_path / f"model-{stage}"
        load_policy(str(project / "start"), CPU).model.config.save_pretrained(folder)
        PreTrainedTokenizerFast.from_pretrained(str(project / "start")).save_pretrained(folder)
        message = refused(make(project, tmp_path / f"run-{stage}", model=str(folder)))
        assert str(folder) in message


def test_a_reward_model_that_is_none(project: Path, tmp_path: Path) -> None:  # C3
    """A language model has no score head, and none is made up."""
    message = refused(
        tiny.ppo(
            project,
            tmp_path / "run",
            reward_model=str(project / "start"),
            critic=CriticSettings(start="reward"),
        )
    )
    assert "score" in message
    assert "prefloop reward" in message


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return [1.0]", ["1 values for 16 completions"]),
        ("return [float('nan')] * len(completions)", ["nan", "item 0"]),
        ("return [1.0, 'two'] * (len(completions) // 2)", ["'two'", "item 1"]),
        ("return 3.0", ["3.0", "sequence of 16 numbers"]),
    ],
)
def test_a_reward_function_that_returns_something_else(
    body: str, expected: list[str], project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "paid.py").write_text(f"def pay(prompts, completions):\n    {body}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "paid", raising=False)
    message = refused(tiny.ppo(project, tmp_path / "run", reward_model="paid:pay"), runs=1)
    assert "paid:pay" in message
    assert all(words in message for words in expected)


def test_a_reward_function_that_goes_wrong_later_loses_nothing(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that were done are in the log and the checkpoint stays, to go on from with a mended function."""
    (tmp_path / "later.py").write_text(
        "calls = []\n"
        "def pay(prompts, completions):\n"
        "    calls.append(1)\n"
        "    return [1.0 if len(calls) < 3 else float('nan')] * len(completions)\n"
    )
    monkeypatch.chdir(tmp_path)
    config = tiny.ppo(project, tmp_path / "run", reward_model="later:pay", steps=4)
    config = replace(config, run=replace(config.run, save_every=1))
    with pytest.raises(InputError, match="later:pay returned nan"):
        train(config)
    assert [row["step"] for row in metrics_of(tmp_path / "run")] == [1, 2]
    assert (tmp_path / "run/checkpoints/step-2/model.safetensors").exists()


@pytest.mark.parametrize("name", ["nowhere:pay", "tests.algorithms.tiny:small_leters", "a:b:c"])
def test_a_reward_function_that_is_not_there(name: str, project: Path, tmp_path: Path) -> None:
    message = refused(tiny.ppo(project, tmp_path / "run", reward_model=name))
    assert name in message
    if "leters" in name:
        assert "small_letters" in message


@pytest.mark.parametrize("stage", MAKE)
def test_an_unreadable_store(stage: str, project: Path, tmp_path: Path) -> None:
    (tmp_path / "prefloop.db").write_text("this is no database")
    message = refused(MAKE[stage](project, tmp_path / "run"))
    assert "prefloop.db" in message
    assert (tmp_path / "prefloop.db").read_text() == "this is no database"


@pytest.mark.parametrize("stage", ["reward", "dpo", "ppo"])
def test_a_store_that_is_not_there(stage: str, project: Path, tmp_path: Path) -> None:
    config = MAKE[stage](project, tmp_path / "run")
    message = refused(replace(config, data=replace(config.data, source="store")))
    assert "prefloop.db" in message
    assert not (tmp_path / "prefloop.db").exists()


def test_nothing_to_train_on(project: Path, tmp_path: Path) -> None:
    config = with_rows(MAKE["sft"](project, tmp_path / "run"), good("sft", 1), heldout=0.999)
    assert "data.heldout" in refused(config)


def test_a_controller_that_could_turn_the_coefficient_negative(project: Path, tmp_path: Path) -> None:
    """Said before the first step."""
    message = refused(tiny.ppo(project, tmp_path / "run", kl=KL(coef=0.1, target=1.0, horizon=2)))
    assert "kl.horizon is 2 " in message


def test_wrong_dtype_and_misspelt_keys_name_line_and_what_is_right(tmp_path: Path) -> None:
    file = tmp_path / "sft.yaml"
    rest = "run: {out: x}\nmodel: m\ndata: {source: d}\ncompute:\n"
    file.write_text(rest + "  dtype: float16\n")
    with pytest.raises(InputError, match=r"sft\.yaml:5.*dtype.*float16.*float32.*bfloat16"):
        load_config(SFTConfig, file)
    file.write_text(rest + "  dtipe: float32\n")
    with pytest.raises(InputError, match=r"sft\.yaml:5.*dtipe.*dtype"):
        load_config(SFTConfig, file)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"critic": CriticSettings(start="reward")}, ["critic.start", "policy"]),
        ({"sampling": Sampling(top_p=0.9)}, ["top_p", "temperature"]),
        ({"sampling": Sampling(temperature=0.0)}, ["temperature", "above 0"]),
        ({"ptx": "file"}, ["ptx_coef", "both"]),
        ({"minibatches": 99}, ["minibatches", "99", "16"]),
        ({"critic": CriticSettings(start="shared", warmup_steps=1), "steps": 5}, ["warmup_steps", "trunk"]),
        ({"critic": CriticSettings(start="policy", warmup_steps=5), "steps": 5}, ["warmup_steps", "5"]),
    ],
)
def test_contradictory_settings(
    changes: dict[str, Any], words: list[str], project: Path, tmp_path: Path
) -> None:  # K3
    with pytest.raises(InputError) as caught:
        tiny.ppo(project, tmp_path / "run", **changes)
    assert all(word in str(caught.value) for word in words)


def test_k1_in_the_loss_is_refused() -> None:  # K4
    with pytest.raises(InputError, match="no gradient"):
        KL(placement="loss", estimator="k1")


def test_an_existing_run_is_not_written_over(project: Path, tmp_path: Path) -> None:
    config = test_sft.config(project, tmp_path / "run", max_steps=1)
    train(config)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(InputError, match=r"already holds a run.*run\.resume"):
        train(config)
    after = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert before.keys() == after.keys()
    assert all(after[file] == text for file, text in before.items() if "prefloop.db" not in file.name)


def test_a_mended_command_runs_where_the_wrong_one_was_refused(project: Path, tmp_path: Path) -> None:
    """No `already holds a run` for a run that never began; files that were there before stay."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    config: PPOConfig = tiny.ppo(project, tmp_path / "run")
    with pytest.raises(InputError):
        train(replace(config, reward_model="nowhere:pay"))
    assert (tmp_path / "run/notes.txt").read_text() == "mine"
    train(config)
    assert (tmp_path / "run/final/model.safetensors").exists()


def test_a_limit_is_counted(project: Path, tmp_path: Path) -> None:  # D5
    config = test_sft.config(project, tmp_path / "run", max_steps=1)
    train(replace(config, data=replace(config.data, limit=20)))
    text = (tmp_path / "run/log.txt").read_text()
    assert "28" in text
    assert "limit" in text


def test_write_helper_and_data_agree(tmp_path: Path) -> None:
    """The rows these tests write are read as they are meant."""
    from prefloop.data import load_comparisons

    write(tmp_path / "pairs.jsonl", [GOOD["dpo"]])
    (record,) = load_comparisons(Data(source=str(tmp_path / "pairs.jsonl")).source).records
    assert (record.chosen, record.rejected) == ("b", "c")
