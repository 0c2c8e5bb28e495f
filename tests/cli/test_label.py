"""`prefloop label simulate`."""

import sys
from pathlib import Path

import pytest

from prefloop.cli import main
from prefloop.data.store import Filters, Store
from prefloop.data.toy_world import ToyWorld, best_reply
from prefloop.records import Completion, Prompt

PROMPTS = ToyWorld(0).prompts(20)


def completion(prompt: Prompt, text: str, index: int) -> Completion:
    return Completion(
        prompt=prompt,
        text=text,
        policy="sft",
        logprob=-1.0,
        tokens=3,
        ended=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        seed=0,
        index=index,
    )


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A good and a bad completion of each prompt."""
    monkeypatch.chdir(tmp_path)
    with Store.open("s.db") as opened:
        sft = opened.add_checkpoint("sft", weights_sha256="a" * 64)
        texts = [(prompt, text) for prompt in PROMPTS for text in (best_reply(prompt), "No idea")]
        opened.add_completions([completion(p, text, i % 2) for i, (p, text) in enumerate(texts)], sft)
    return "s.db"


def run(capsys: pytest.CaptureFixture[str], line: str, code: int = 0) -> str:
    assert main(line.split()) == code
    out, err = capsys.readouterr()
    return err if code else out


def test_pairs_are_made_and_judged_once(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, f"label simulate --store {store} --temperature 0")
    assert "20 pairs, 20 of them new" in out
    assert "new judgements by simulated: 20 (a " in out
    assert "the better completion was chosen: 100.0%" in out
    assert "can reach on such labels: 100.0%" in out
    assert out.endswith(
        f"next: prefloop reward --model MODEL --data store --store {store} --out RUNS/reward\n"
    )
    again = run(capsys, f"label simulate --store {store} --temperature 0")
    assert "20 pairs, 0 of them new" in again
    assert "new judgements by simulated: 0 (none)" in again


def test_flips_are_made_and_told(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, f"label simulate --store {store} --temperature 0 --flip 1 --annotator liar")
    assert "the better completion was chosen: 0.0%" in out
    out = run(capsys, f"label simulate --store {store} --temperature 0 --flip 0.25 --annotator noisy")
    assert "can reach on such labels: 75.0%" in out


def test_a_python_function_judges(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("likes_of.py").write_text(
        "def short(prompt, completion):\n    return -len(completion)\n\ndef words(prompt, completion):\n    return 'many'\n"
    )
    run(capsys, f"label simulate --store {store} --utility likes_of:short --temperature 0 --annotator short")
    with Store.open(store) as opened:
        records = opened.comparisons(Filters(annotators=("short",))).records
    assert {record.chosen for record in records} == {"No idea"}
    error = run(capsys, f"label simulate --store {store} --utility likes_of:words --annotator w", code=2)
    assert "utility likes_of:words returned 'many' of type str" in error


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return float('nan') if completion == 'No idea' else 1.0",
            "utility odd:u returned nan for completion 'No idea'",
        ),
        ("return 1 / 0", "utility odd:u raised ZeroDivisionError: division by zero ("),
        ("return None", "utility odd:u returned None of type NoneType"),
    ],
)
def test_a_function_that_gives_no_number_writes_nothing(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    Path("odd.py").write_text(f"def u(prompt, completion):\n    {body}\n")
    monkeypatch.delitem(sys.modules, "odd", raising=False)
    assert message in run(capsys, f"label simulate --store {store} --utility odd:u", code=2)
    with Store.open(store) as opened:
        counts = opened.counts()
    assert (counts["annotator"], counts["item"], counts["judgement"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--utility tyo",
            "utility is 'tyo'; it must be toy, the folder of a fitted judge, or module:function",
        ),
        ("--utility none_such:f", "utility 'none_such:f': there is no module 'none_such'"),
        ("--utility math:sqr", "has no 'sqr'; did you mean 'sqrt'?"),
        ("--utility math:pi", "utility 'math:pi' is a float, not a function"),
        ("--checkpoints spt", "checkpoint 'spt' is not in the store; the nearest are sft"),
        ("--flip 2", "flip is 2.0; it must be a share"),
    ],
)
def test_mistakes(store: str, capsys: pytest.CaptureFixture[str], flags: str, message: str) -> None:
    assert message in run(capsys, f"label simulate --store {store} {flags}", code=2)
    with Store.open(store) as opened:
        assert opened.counts()["item"] == opened.counts()["annotator"] == 0


def test_other_settings_need_another_name(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, f"label simulate --store {store}")
    error = run(capsys, f"label simulate --store {store} --flip 0.1", code=2)
    assert "give another name" in error


def test_nothing_to_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store.open(tmp_path / "s.db").close()
    assert "no prompt has two different completions" in run(
        capsys, f"label simulate --store {tmp_path / 's.db'}", code=2
    )
