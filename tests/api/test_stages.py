"""Stages as functions: the commands' settings as keyword arguments, data and functions by value, finished runs as objects."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import prefloop as pl
from prefloop.api.given import settings_from
from prefloop.cli import main
from prefloop.configs.common import Optim
from prefloop.configs.dpo import DPOConfig
from prefloop.configs.load import load_config
from tests.tiny_project import make_model

ROWS = [
    {"prompt": word, "chosen": f"{word} yes", "rejected": f"{word} no no"}
    for word in ("sun", "rain", "tea", "wind", "oak", "ice", "sea", "hat")
]
SMALL: dict[str, Any] = {
    "batch_size": 4,
    "max_steps": 2,
    "epochs": 0.0,
    "compute": {"device": "cpu", "attention": "packed"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("model") / "start", chat=True)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_importing_is_light() -> None:
    """Nothing heavy is imported with prefloop, nor by looking at what it has, nor for a wrong setting."""
    code = (
        "import sys, prefloop as pl; dir(pl); heavy = {'torch', 'transformers', 'numpy', 'sqlalchemy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "try: pl.dpo(model='m', betta=1)\n"
        "except pl.InputError as error: assert 'did you mean beta?' in str(error)\n"
        "else: raise SystemExit('not refused')\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_run_from_rows_gives_its_policy_metrics_and_lineage(model: Path) -> None:
    run = pl.dpo(model=model, data=ROWS, lora=2, optim={"lr": 1e-3}, beta=0.2, **SMALL)
    assert run.folder == Path("runs/dpo-1")
    assert len(run.metrics.column("loss")) == 2
    assert run.metrics.column("loss")[0] == pytest.approx(0.6931, abs=1e-3)
    assert list(run.metrics.frame()["step"]) == [1, 2]
    with pytest.raises(pl.InputError, match="there is no column 'los'"):
        run.metrics.column("los")
    settings = load_config(DPOConfig, run.folder / "config.yaml")
    assert (settings.lora.rank, settings.optim.lr, settings.beta) == (2, 1e-3, 0.2)
    assert settings.data.source.startswith("runs/data/")
    answer = run.policy.generate("sun", max_new_tokens=4, seed=1)
    assert isinstance(answer, str)
    assert answer == run.policy.generate("sun", max_new_tokens=4, seed=1)
    assert Path(settings.data.source).name in run.lineage().render()
    assert "<svg" in run._repr_html_()


def test_a_cell_run_again_makes_a_new_run_of_the_same_data(model: Path) -> None:
    first = pl.sft(model=model, data=[{"prompt": "a", "completion": "b"}] * 4, **SMALL)
    again = pl.sft(model=first, data=[{"prompt": "a", "completion": "b"}] * 4, **SMALL)
    assert [first.folder.name, again.folder.name] == ["sft-1", "sft-2"]
    assert len(list(Path("runs/data").iterdir())) == 1
    assert "sft-1/final" in again.lineage().render()
    assert pl.open_run("runs/sft-2") == again


def test_a_folder_that_holds_a_run_is_left_alone(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": "a", "completion": "b"}] * 4
    runs = [pl.sft(model=model, data=rows, out="tea", **SMALL) for _ in range(3)]
    assert [run.folder.name for run in runs] == ["tea", "tea-2", "tea-3"]
    assert "tea holds a run, so this one goes into tea-2" in capsys.readouterr().out
    longer: dict[str, Any] = SMALL | {"max_steps": 3}
    again = pl.sft(model=model, data=rows, out="tea", resume=True, **longer)
    assert (again.folder.name, len(again.metrics)) == ("tea", 3)
    with pytest.raises(pl.InputError, match="resume is True, but out is not given"):
        pl.sft(model=model, data=rows, resume=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(pl.InputError, match="each process would take a folder of its own"):
        pl.sft(model=model, data=rows)


def test_an_open_store_is_data(model: Path) -> None:
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert main(["data", "import", "pairs.jsonl", "--store", "own.db"]) == 0
    with pl.Store.open("own.db") as store:
        run = pl.dpo(model=model, data=store, **SMALL)
        settings = load_config(DPOConfig, run.folder / "config.yaml")
        assert (settings.data.source, settings.run.store) == ("store", store.address)
    assert not Path("runs/prefloop.db").exists()


def test_a_notebook_shows_a_bar_and_charts(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    handle = SimpleNamespace(update=shown.append)
    notebook, display = ModuleType("IPython"), ModuleType("IPython.display")
    vars(notebook).update(get_ipython=lambda: SimpleNamespace(kernel="a kernel"), display=display)
    vars(display).update(HTML=str, display=lambda html, display_id: handle)
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    for name in ("BAR_SECONDS", "CHART_SECONDS"):
        monkeypatch.setattr(f"prefloop.api.live.{name}", 0.0)
    rows = [{"prompt": "a", "completion": "b"}] * 4
    pl.sft(model=model, data=rows, **SMALL)
    for value, line in (("0.0000", "sft 0/2"), ("0.5000", "sft 1/2"), ("1.0000", "sft 2/2")):
        assert any(f'value="{value}"' in html and line in html for html in shown), line
    assert "<svg" in shown[-1]
    assert "loss" in shown[-1]
    count = len(shown)
    vars(notebook).update(get_ipython=lambda: SimpleNamespace())  # a terminal's IPython has no kernel
    pl.sft(model=model, data=rows, **SMALL)
    assert len(shown) == count


def cautious(policy_chosen: Tensor, policy_rejected: Tensor, *, limit: float = 3.0) -> Tensor:
    return -logsigmoid((policy_chosen - policy_rejected).clamp(max=limit))


def test_losses_and_reward_functions_are_given_by_value(model: Path) -> None:
    seen: list[str] = []

    def short(prompts: Any, completions: Any) -> list[float]:
        seen.extend(completions)
        return [-float(len(text)) for text in completions]

    run = pl.prefer(model=model, data=pandas.DataFrame(ROWS), loss=cautious, **SMALL)
    assert "test_stages:cautious" in run.settings
    with pytest.raises(pl.InputError, match="both name a scorer"):
        pl.grpo(model=run, data=ROWS, reward=short, reward_model=short)
    online = pl.grpo(
        model=run,
        data=[{"prompt": row["prompt"]} for row in ROWS],
        reward=short,
        steps=1,
        batch_prompts=2,
        completions_per_prompt=2,
        sampling={"max_new_tokens": 4},
        compute=SMALL["compute"],
    )
    assert len(seen) == 4
    assert online.metrics.column("score")[0] == pytest.approx(-sum(map(len, seen)) / 4)
    assert {row["completion"] for row in online.samples} <= set(seen)


def test_a_reward_model_scores_texts_as_its_run_does(model: Path) -> None:
    run = pl.reward(model=model, data=ROWS, **SMALL)
    scores = run.score(["sun", "rain"], ["sun yes", "rain no no"])
    assert scores == pl.load_reward_model(run.model_folder).score(["sun", "rain"], ["sun yes", "rain no no"])
    assert scores[0] != scores[1]
    with pytest.raises(pl.InputError, match="2 prompts and 1 completions"):
        run.score(["sun", "rain"], ["sun yes"])


def test_logprobs_are_those_of_the_model(model: Path) -> None:
    """Against the plain model of transformers, on the chat as its template writes it."""
    policy = pl.load_policy(model)
    (found,) = policy.logprobs(["sun"], ["yes"])
    chat = [{"role": "user", "content": "sun"}, {"role": "assistant", "content": "yes"}]
    tokenizer = policy.tokenizer
    opening = tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True, tokenize=False)
    assert isinstance(opening, str)
    prompt = tokenizer(opening, add_special_tokens=False)["input_ids"]
    ids = [*prompt, *tokenizer("yes", add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        logits = policy.policy.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [logits[i - 1, ids[i]].item() for i in range(len(prompt), len(ids))]
    assert found[: len(expected)] == pytest.approx(expected, abs=1e-4)
    assert len(found) == len(expected) + 1  # and the stop token


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"optim": {"lrr": 1}}, "optim.lrr is not a setting; did you mean optim.lr?"),
        (
            {"optim": 3},
            r"optim is 3, but it is a group of settings; give a dict, such as optim=dict\(lr=...\)",
        ),
        ({"beta": "much"}, "beta is 'much'; it must be a number"),
        ({"data": []}, "data holds no row"),
        ({"data": [3]}, "row 1 of data is int; every row must be a dict"),
        ({"data": {"source": 3}}, "data is int"),
        ({"lora": {"rank": -1}}, "lora.rank is -1"),
    ],
)
def test_wrong_settings_are_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(pl.InputError, match=said):
        settings_from(DPOConfig, {"model": "m", "data": "rows.jsonl"} | given, stage="dpo")


def test_groups_are_dicts_dataclasses_or_dotted_names() -> None:
    def lr(**given: Any) -> float:
        return settings_from(
            DPOConfig, {"model": "m", "data": "r.jsonl", "out": "o"} | given, stage="dpo"
        ).optim.lr

    assert lr(optim={"lr": 0.5}) == lr(optim=Optim(lr=0.5)) == lr(**{"optim.lr": 0.5}) == 0.5


def votes() -> Iterator[dict[str, str]]:
    for i in range(30):
        yield {"model_a": "x", "model_b": "y", "winner": "model_a" if i % 3 else "model_b", "prompt": f"q{i}"}


def test_agreement_of_rows() -> None:
    """Two judges who see the pair in different orders agree; what they say of another turn or of other texts is another pair."""
    asked = {"model_a": "x", "model_b": "y", "prompt": "q", "turn": "1"}
    turned = asked | {"model_a": "y", "model_b": "x"}
    rows = [
        asked | {"judge": "ann", "winner": "model_a"},
        turned | {"judge": "bob", "winner": "model_b"},
        asked | {"judge": "ann", "winner": "tie", "prompt": "r"},
        turned | {"judge": "bob", "winner": "tie", "prompt": "r"},
        asked | {"judge": "ann", "winner": "model_a", "turn": "2"},
        asked | {"judge": "bob", "winner": "model_b", "turn": "2"},
        asked | {"judge": "ann", "winner": "model_b"},
    ]
    found = pl.agreement(rows)
    assert (found.raw.items, found.raw.value) == (3, pytest.approx(2 / 3))
    assert len(found.table.items) == 4  # a second vote of one judge is kept, by itself
    assert [(person.name, person.answers) for person in found.annotators] == [("ann", 4), ("bob", 3)]
    assert [dispute.choices for dispute in found.disputes] == [{"a": 1, "b": 1}]
    assert found.annotators[1].first_shown.value == 0.0
    with pytest.raises(pl.InputError, match="the vote names no judge"):
        pl.agreement(list(votes()))


def test_ratings_and_win_rates_of_rows() -> None:
    board = pl.ratings(list(votes()))
    assert [row.name for row in board.ratings] == ["x", "y"]
    file = Path("votes.jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in votes()))
    assert pl.ratings(file).ratings == board.ratings
    assert pl.win_rate([1, 2, 3], [0, 2, 5]).value == 0.5


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_lines_of_the_pages_run_as_written(
    page: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(pl.__file__).parents[1] / page).read_text(encoding="utf-8")
    lines = next(block for block in text.split("```python\n")[1:] if "pl.dpo(" in block).split("```")[0]
    exec(compile(lines.replace('"MODEL"', repr(str(model))), page, "exec"), {})
    assert "runs/data/" in capsys.readouterr().out


def test_policies_metrics_and_the_gold_judge_are_measured_by_value(model: Path) -> None:
    """`prefloop eval` from Python: a dict of policies, functions as metrics and as the gold judge."""

    def words(prompts: Any, completions: list[str], references: Any) -> list[int]:
        return [len(text.split()) for text in completions]

    def short(prompt: Any, completion: str) -> float:
        return -float(len(completion))

    found = pl.evaluate(
        policies={"start": model, "same": model},
        data=[{"prompt": row["prompt"]} for row in ROWS],
        metrics=[words],
        gold=short,
        part="all",
        sampling={"max_new_tokens": 4},
        compute=SMALL["compute"],
    )
    assert list(found.policies) == ["start", "same"]
    start, same = found.policies.values()
    assert start.further["words"].n == len(ROWS)
    assert start.gold is not None
    assert start.gold == same.gold
    assert found.report.is_file()
    with pytest.raises(pl.InputError, match="metrics"):
        pl.evaluate(policies={"start": model}, data="prompts.jsonl", metrics="words")
