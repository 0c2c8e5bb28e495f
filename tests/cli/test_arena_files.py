"""`prefloop arena FILE` and `prefloop data import FILE` on votes that another tool wrote."""

import json
from pathlib import Path

import pytest

from prefloop.cli import main
from prefloop.data.store import Store
from tests.data.test_votes import CROWD, lines, table


def run(capsys: pytest.CaptureFixture[str], line: str, code: int = 0) -> str:
    assert main(line.split()) == code
    out, err = capsys.readouterr()
    return (err if code else out).replace("\u00a0", " ")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def battles(folder: Path) -> str:
    """Three models, 20 prompts, 2 judges; p beats q 3 times of 4, q beats r likewise; judge j2 has the last five prompts in German."""
    rows = [
        {"model_a": one, "model_b": two, "winner": "model_a" if at % 4 else "model_b", "question_id": at,
         "judge": f"j{1 + at % 2}", "language": "German" if at >= 15 else "English"}
        for at in range(20)
        for one, two in (("p", "q"), ("q", "r"))
    ]  # fmt: skip
    table(folder / "battles.csv", rows)
    return "battles.csv"


def names(out: str) -> list[str]:
    return [line.split()[2 if "(" in line.split()[1] else 1] for line in out.splitlines() if " to " in line]


def test_a_table_in_one_command(battles: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, f"arena {battles}")
    assert "battles.csv: 40 votes between 3 models" in out
    assert "40 votes on 20 prompts by 2 annotators" in out
    assert names(out) == ["p", "q", "r"]
    assert not list(Path().glob("*.db"))


def test_several_files_share_their_prompts(battles: str, capsys: pytest.CaptureFixture[str]) -> None:
    table(Path("more.csv"), [{"model_a": "s", "model_b": "p", "winner": w, "question_id": 3, "judge": "j3"} for w in ("a", "b")])  # fmt: skip
    out = run(capsys, f"arena {battles} more.csv --clusters both")
    assert "42 votes on 20 prompts by 3 annotators" in out


def test_judges_prompts_and_languages(battles: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "10 votes on 5 prompts by 2" in run(capsys, f"arena {battles} --languages German")
    assert "20 votes on 10 prompts by 1" in run(capsys, f"arena {battles} --annotators j2")
    out = run(capsys, f"arena {battles} --by language --out board")
    assert list(json.loads(Path("board/arena.json").read_text())["parts"]) == [
        "language English",
        "language German",
    ]
    assert "Language English" in Path("board/arena.html").read_text()
    assert "language English\n" in out
    assert "30 votes on 15 prompts" in out
    error = run(capsys, f"arena {battles} --languages Dutch", code=2)
    assert "languages has 'Dutch', which no vote has; the nearest are" in error
    for words in ("--turns 1", "--by turn"):
        error = run(capsys, f"arena {battles} {words}", code=2)
        assert "but no column says the turn; name it with --columns turn=COLUMN" in error
    assert "split is 'test', but battles.csv has no splits" in run(
        capsys, f"arena {battles} --split test", code=2
    )


def test_votes_of_one_prompt_widen_the_interval(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten votes on each of twelve prompts that agree with each other know as much as twelve votes, not as 120."""
    rows = [
        {"model_a": "p", "model_b": "q", "winner": "a" if at % 3 else "b", "question_id": at}
        for at in range(12)
    ]
    table(
        Path("alone.csv"), [{key: row[key] for key in ("model_a", "model_b", "winner")} for row in rows * 10]
    )
    table(Path("together.csv"), rows * 10)

    def width(out: str) -> float:
        (line,) = [line for line in out.splitlines() if " p  " in line]
        low, high = line.replace("−", "-").split(" to ")
        return float(high.split()[0]) - float(low.split()[-1])

    alone = run(capsys, "arena alone.csv")
    assert "no two votes are on one prompt, so each vote stands for itself" in alone
    together = run(capsys, "arena together.csv")
    assert width(together) > 2.5 * width(alone)  # √10, and what few clusters add


def test_soft_preferences_weigh_as_much_as_they_say(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """3/4 for q on every prompt: a win rate of 75 %, and the rating of 3 wins in 4; counted is each once."""
    rows = [
        {"instruction": f"Say {at}.", "output_1": "x" * (5 + at), "generator_1": "base", "output_2": "y" * (9 - at % 3),
         "generator_2": "q", "annotator": "judge", "preference": preference}
        for at, preference in enumerate([1.75] * 8 + [1.5])
    ]  # fmt: skip
    Path("a.json").write_text(json.dumps(rows[:8]))
    out = run(capsys, "arena a.json --baseline base --prior 1e-9 --out board")
    assert "soft preferences, each taken as two votes weighted by its probability: 8" in out
    ratings = json.loads(Path("board/arena.json").read_text())["whole"]["ratings"]
    assert [(row["name"], row["votes"], row["wins"], row["losses"]) for row in ratings] == [
        ("q", 8, 8, 0),
        ("base", 8, 0, 8),
    ]
    gap = ratings[0]["rating"]["value"] - ratings[1]["rating"]["value"]
    assert gap == pytest.approx(190.85, abs=0.1)  # 400 log10(3)
    assert "q      75 %" in out


def test_without_answers_there_is_no_length(battles: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, f"arena {battles} --baseline q")
    (line,) = [line for line in out.splitlines() if line.startswith("  p      75 %")]
    assert line.count("%") == 3  # the rate and its interval
    assert "no rate at equal length: the votes come without the answers" in line
    error = run(capsys, f"arena {battles} --style", code=2)
    assert "the files do not hold the answers; name a file of them with --outputs" in error


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("arena", "name files of votes (prefloop arena battles.csv) or the store"),
        ("arena battles.csv --store s.db", "not both: files are battles.csv, store is 's.db'"),
        ("arena battles.csv --each_round", "each_round is True, which applies to votes of a store"),
        ("arena --store s.db --turns 1", "turns is 1, which applies to votes of files"),
        ("arena no.csv", "no.csv: there is no such file"),
        ("dpo battles.csv", "unexpected argument 'battles.csv'; did you mean `--data battles.csv`?"),
        (
            "merge x y",
            "unexpected argument 'x'; write it after its flag, --NAME x (see --help for the names)",
        ),
        ("data import battles.csv --store s.db", "holds votes without the answers, and a store holds texts"),
    ],
)
def test_what_is_refused(battles: str, capsys: pytest.CaptureFixture[str], line: str, why: str) -> None:
    assert why in run(capsys, line, code=2)
    assert not Path("s.db").exists()


def test_votes_into_a_store(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    votes = [
        {"prompt_id": f"k{at}", "model_a": one, "model_b": two, "winner": winner, "judge": "ann"}
        for at in range(4)
        for one, two, winner in (("p", "q", "model_a"), ("r", "q", "tie"))
    ]
    votes.append({**votes[0], "model_a": "q", "model_b": "p", "winner": "model_b"})  # says the first again
    table(Path("v.csv"), votes)
    lines(Path("o.jsonl"), [
        {"prompt_id": f"k{at}", "model": name, "prompt": f"Question {at}", "completion": f"{name} on {at}"}
        for at in range(4) for name in "pqr"
    ])  # fmt: skip
    line = "data import v.csv --outputs o.jsonl --store s.db"
    out = run(capsys, line)
    assert "4 prompts, 4 of them new" in out
    assert "12 completions by 3 models, 12 of them new" in out
    assert "8 votes, 8 of them new" in out
    assert "1 rows repeat a vote by the same annotator" in out
    assert "8 votes, 0 of them new" in run(capsys, line)
    with Store.open("s.db", create=False) as store:
        found = store.comparisons()
    assert [(each.chosen, each.rejected, each.annotator) for each in found.records] == [
        (f"p on {at}", f"q on {at}", "ann") for at in range(4)
    ]
    assert found.left_out == {"tie": 4}
    assert "8 votes on 4 prompts by 1 annotators" in run(capsys, "arena --store s.db")
    table(Path("v.csv"), [*votes, {**votes[0], "winner": "model_b"}])
    assert "v.csv:11: ann judges this differently in v.csv:2" in run(
        capsys, line.replace("s.db", "t.db"), code=2
    )
    assert not Path("t.db").exists()


def test_data_check_says_what_a_file_of_votes_holds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table(Path("crowd.csv"), CROWD)
    out = run(capsys, "data check crowd.csv")
    assert "crowd.csv: 3 votes between 3 models" in out
    assert "ties: 1" in out
    table(Path("crowd.csv"), [*CROWD, {**CROWD[0], "winner": "x or y"}])
    assert main(["data", "check", "crowd.csv", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["facts"]["judges"], len(found["bad"])) == ("votes", 2, 1)


def test_alpaca_evals_votes_give_the_published_order(
    real_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of models whose published win rates over all instructions differ by three points or more."""
    published = ["mistral-medium", "claude", "zephyr-7b-alpha", "wizardlm-13b", "vicuna-13b", "falcon-40b-instruct",
                 "alpaca-farm-ppo-human", "phi-2", "text_davinci_001"]  # fmt: skip
    found = names(run(capsys, f"arena {real_data}/alpaca-eval/votes.csv.gz"))
    assert len(found) == 25
    assert [name for name in found if name in published] == published
