"""`prefloop arena` and `prefloop label agreement` on a store whose truth is known."""

import json
import shutil
from pathlib import Path

import pytest

from prefloop.cli import main
from prefloop.data import load_comparisons
from prefloop.data.store import Choice, Judgement, Store
from prefloop.records import Completion, Prompt
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings

SKILL = {"weak": 0.0, "middle": 1.0, "strong": 2.0}
PEOPLE = ("ann", "bob", "cy")


def completion(prompt: Prompt, text: str, policy: str) -> Completion:
    return Completion(
        prompt=prompt, text=text, policy=policy, logprob=-1.0, tokens=3, ended=True, temperature=1.0,
        top_p=1.0, top_k=0, seed=0, index=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models on 12 prompts in two rounds; ann and bob know the better one, cy always takes the first, some are ties."""
    file = tmp_path_factory.mktemp("made") / "s.db"
    with Store.open(file) as opened:
        ids = {name: opened.add_checkpoint(name, weights_sha256=name[0] * 64) for name in SKILL}
        people = [opened.add_annotator(name) for name in PEOPLE]
        judgements = []
        for at in range(12):
            prompt = Prompt(content=f"question {at}")
            made = {
                name: opened.add_completions(
                    [completion(prompt, f"**{name}** answer {at}", name)], ids[name]
                )[0]
                for name in SKILL
            }
            for pair in (("weak", "middle"), ("middle", "strong"), ("strong", "weak")):
                (item,) = opened.add_items([[made[name] for name in pair]], round=at % 2)
                for who, person in enumerate(people):
                    better: Choice = "a" if SKILL[pair[0]] > SKILL[pair[1]] else "b"
                    if at % 4 == 3:
                        better = "b" if better == "a" else "a"  # an upset, so that nobody is undefeated
                    choice: Choice = (
                        "tie" if at == 5 else "both_bad" if at == 6 else better if who < 2 else "a"
                    )
                    judgements.append(
                        Judgement(
                            item=item, annotator=person, choice=choice, order_shown=(0, 1), duration_ms=2000
                        )
                    )
            rank = opened.add_items([[made[name] for name in SKILL]], kind="rank", round=at % 2)[0]
            judgements.append(
                Judgement(
                    item=rank,
                    annotator=people[0],
                    choice="ranking",
                    ranking=((2,), (0, 1)),
                    order_shown=(2, 0, 1),
                )
            )
        skipped = opened.add_items([[made["weak"], made["strong"]]], round=7)[0]  # pyright: ignore[reportPossiblyUnboundVariable]
        judgements.append(Judgement(item=skipped, annotator=people[0], choice="skip", order_shown=(0, 1)))
        opened.add_judgements(judgements)
    return file


@pytest.fixture
def store(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A copy of that store, where the test works."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(made, "s.db")
    return "s.db"


def run(capsys: pytest.CaptureFixture[str], line: str, code: int = 0) -> str:
    assert main(line.split()) == code
    out, err = capsys.readouterr()
    return (err if code else out).replace("\u00a0", " ")


def order(out: str) -> list[str]:
    return [
        line.split()[1 if "(" not in line.split()[1] else 2] for line in out.splitlines() if " to " in line
    ]


def test_the_better_model_stands_higher(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, f"arena --store {store}")
    assert (
        "Bradley-Terry, ties as half wins; 108 votes on 12 prompts by 3 annotators; 95 % intervals by posterior over prompts"
        in out
    )
    assert order(out) == ["strong", "middle", "weak"]
    assert "ranking, which only plackett luce reads 12, skip 1" in out
    for method in ("davidson", "rao_kupper", "plackett_luce", "elo"):
        assert "strong" in run(capsys, f"arena --store {store} --method {method}")
    out = run(capsys, f"arena --store {store} --method plackett_luce")
    assert "108 votes and 12 rankings" in out
    assert order(out)[0] == "strong"


def test_anchor_bootstrap_balance_and_style(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(
        capsys,
        f"arena --store {store} --anchor weak --intervals bootstrap --clusters both --resamples 50 --balance",
    )
    assert " 1000  1000 to 1000 " in out
    out = run(capsys, f"arena --store {store} --style --clusters vote")
    assert "style, change in the log-odds of winning per standard deviation:" in out
    assert "  length " in out


def test_files_of_the_arena(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, f"arena --store {store} --each_round --out board")
    assert "round 0" in out
    assert "round 1" in out
    found = json.loads(Path("board/arena.json").read_text())
    assert found["whole"]["ratings"][0]["name"] == "strong"
    assert set(found["rounds"]) == {"0", "1"}
    page = Path("board/arena.html").read_text()
    assert page.count("<svg") == 4  # all votes, two rounds, and the ratings over the rounds
    assert "Over rounds" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_rounds_stand_side_by_side(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, f"arena --store {store} --each_round --anchor weak")
    table = out.partition("ratings round by round")[2].splitlines()
    assert table[1].split() == ["model", "round", "0", "round", "1"]
    weak = next(line for line in table if line.split()[:1] == ["weak"])
    assert weak.split() == ["weak", "1000", "[1000,", "1000]", "1000", "[1000,", "1000]"]
    boards = out.split("\nround ")[1:]
    for at, board in enumerate(boards):
        row = next(line.split() for line in board.splitlines() if "strong" in line.split())
        rating = row[row.index("strong") + 1]
        strong = next(line for line in table if line.split()[:1] == ["strong"])
        assert strong.replace("[", " ").split()[1 + 3 * at] == rating
    assert "ratings round by round" not in run(capsys, f"arena --store {store}")


def test_win_rates_against_a_baseline(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, f"arena --store {store} --baseline weak --out board")
    rows = {
        line.split()[0]: line.split() for line in out.partition("win rate against weak")[2].splitlines()[2:4]
    }
    assert set(rows) == {"middle", "strong"}
    found = json.loads(Path("board/arena.json").read_text())["win_rates"]["strong"]
    # By hand: strong is slot 0 against weak; 12 prompts: three upsets, a tie, a both-bad, and cy always takes slot 0.
    means = [(1 / 3 if at % 4 == 3 else 1.0) if at not in (5, 6) else 0.5 for at in range(12)]
    assert found["raw"]["value"] == pytest.approx(sum(means) / 12)
    spread = sum((each - sum(means) / 12) ** 2 for each in means) / 11
    assert found["raw"]["standard_error"] == pytest.approx((spread / 12) ** 0.5)
    assert found["raw"]["n"] == 12
    # Middle is slot 1 against weak, so cy votes against it every time.
    middle = json.loads(Path("board/arena.json").read_text())["win_rates"]["middle"]["raw"]["value"]
    means = [(0.0 if at % 4 == 3 else 2 / 3) if at not in (5, 6) else 0.5 for at in range(12)]
    assert middle == pytest.approx(sum(means) / 12)
    assert "Win rate against weak" in Path("board/arena.html").read_text()
    error = run(capsys, f"arena --store {store} --baseline weaker", code=2)
    assert "the models are middle, strong, weak" in error


def test_names_are_escaped_in_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefloop.evaluation.arena import Arena, arena_page
    from prefloop.feedback.ratings import leaderboard, make_votes

    board = leaderboard(make_votes(["<b>x</b>", "y"], [0, 1], [1, 0], [0, 0]))
    page = arena_page(Arena(whole=board, rounds={}, left_out={}))
    assert "<b>x" not in page
    assert "&lt;b&gt;x" in page


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--anchor stron", "anchor is 'stron'; it must be one of the models: middle, strong, weak"),
        ("--annotators nobody", "annotator 'nobody' is not in the store"),
        ("--rounds 7", "no judgement compares the answers of two models (skip 1)"),
        ("--kinds ai", "no judgement compares the answers of two models (nothing was judged)"),
        ("--prior -1", "prior is -1.0; it must be a precision, 0"),
        ("--method elo --style", "only bradley_terry, davidson and rao_kupper control for style"),
    ],
)
def test_mistakes(store: str, capsys: pytest.CaptureFixture[str], flags: str, message: str) -> None:
    assert message in run(capsys, f"arena --store {store} {flags}", code=2)


def test_agreement_is_printed(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(
        capsys,
        f"label agreement --store {store} --out agreement.json --labels labels.jsonl --aggregate majority",
    )
    assert "36 pairs judged by 3 annotators; 36 of them by two or more" in out
    # cy names the first always: of 90 pairs of labels on the 30 pairs with sides, ann and bob agree on 30
    assert "noise ceiling: on single labels like these a reward model can be right between " in out
    assert "disputed pairs:" in out
    assert "100 % [89, 100] !" in out  # cy
    numbers = json.loads(Path("agreement.json").read_text())
    assert numbers["raw"]["items"] == 36
    assert [each["name"] for each in numbers["annotators"]] == list(PEOPLE)
    assert numbers["annotators"][2]["first_shown"]["value"] == 1.0
    assert numbers["matrix"]["raw"][0][1] == 1.0
    rows = [json.loads(line) for line in Path("labels.jsonl").read_text().splitlines()]
    assert len(rows) == 30
    assert "left out: both_bad 3, tie 3" in out
    assert {row["p_soft"] for row in rows} == {1.0, round(2 / 3, 6)}
    assert len(load_comparisons("labels.jsonl").records) == 30


def test_every_way_to_aggregate(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    for how, count in (("each", 90), ("dawid_skene", 30), ("one_coin", 30)):
        out = run(
            capsys, f"label agreement --store {store} --aggregate {how} --labels {how}.jsonl.gz --disputed 0"
        )
        assert f"wrote {count} comparisons" in out
        assert len(load_comparisons(f"{how}.jsonl.gz").records) == count


def test_gold_items_of_the_studio_are_known(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Store.open(store) as opened:
        studio = Studio(opened)
        project = studio.create_project(ProjectSettings(name="p", gold_share=0.2)).id
        pairs = [item.id for item in opened.items() if item.kind == "pair"][:12]
        studio.add_tasks(project, pairs, gold=dict.fromkeys(pairs, "a"))
    out = run(capsys, f"label agreement --store {store}")
    cy = next(line for line in out.splitlines() if line.startswith("cy"))
    assert "100 % [76, 100]" in cy  # 12 of 12 (Wilson)
    ann = next(line for line in out.splitlines() if line.startswith("ann"))
    assert "100 % [76, 100]" not in ann
    # Whoever is named knows better.
    named = run(capsys, f"label agreement --store {store} --gold ann")
    assert "100 % [90, 100]" in next(line for line in named.splitlines() if line.startswith("bob"))


def test_gold_is_another_annotator(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, f"label agreement --store {store} --gold ann")
    assert "36 pairs judged by 2 annotators" in out
    bob = next(line for line in out.splitlines() if line.startswith("bob"))
    assert "100 % [90, 100]" in bob
    error = run(capsys, f"label agreement --store {store} --labels x.csv", code=2)
    assert "comparisons are written as .jsonl" in error
    assert "nobody has judged a pair yet" in run(
        capsys, f"label agreement --store {store} --kinds ai", code=2
    )
