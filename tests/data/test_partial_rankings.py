"""Rankings with ties, and the best of K with the rest unordered: in files, in the store, in what is trained on and rated."""

from pathlib import Path
from typing import Any

import pytest

from prefloop.data import content_hash, load_comparisons, load_rankings, load_records
from prefloop.data.importing import import_records
from prefloop.data.store import Filters, Judgement, Store
from prefloop.data.write import write_jsonl
from prefloop.errors import InputError
from prefloop.feedback.judged import read_judged, votes_of
from prefloop.feedback.ratings import leaderboard
from prefloop.records import Completion, Prompt, Ranking
from tests.data.test_votes import lines

PROMPT = Prompt(content="Which?")
TEXTS = ("first", "second", "third", "fourth")
TIED = Ranking(prompt=PROMPT, completions=TEXTS, ranks=(1, 2, 2, 3))
BEST = Ranking(prompt=PROMPT, completions=TEXTS, top=1)


def pairs(records: Any) -> list[tuple[str, str]]:
    return [(each.chosen, each.rejected) for each in records]


def test_a_ranking_gives_the_pairs_that_it_orders():  # D15
    """1, 2, 2, 3 has five strict pairs; the best of four has three."""
    assert pairs(TIED.comparisons()) == [
        ("first", "second"), ("first", "third"), ("first", "fourth"), ("second", "fourth"), ("third", "fourth"),
    ]  # fmt: skip
    assert pairs(BEST.comparisons()) == [("first", "second"), ("first", "third"), ("first", "fourth")]
    two = Ranking(prompt=PROMPT, completions=TEXTS, top=2)
    assert pairs(two.comparisons()) == [*pairs(BEST.comparisons()), ("second", "third"), ("second", "fourth")]
    assert len(Ranking(prompt=PROMPT, completions=TEXTS).comparisons()) == 6


def test_files_hold_ties_and_the_best(tmp_path: Path):  # D15
    rows = [
        {"prompt": "Which?", "completions": list(TEXTS), "ranks": [1, 2, 2, 3]},
        {"prompt": "Which?", "completions": list(TEXTS), "top": 1},
        {"prompt": "Which?", "completions": list(TEXTS), "ranks": [1, 2, 3, 4], "top": 0},
    ]
    path = lines(tmp_path / "r.jsonl", rows)
    found = load_records(path).records
    assert found == (TIED, BEST, Ranking(prompt=PROMPT, completions=TEXTS))
    assert len(load_comparisons(path).records) == 5 + 3 + 6
    write_jsonl(found, tmp_path / "again.jsonl")
    assert load_records(tmp_path / "again.jsonl").records == found
    with pytest.raises(
        InputError,
        match=r"r.jsonl:1: `ranks` is \[1, 2, 2, 3\]: this loss needs an order that the ranking leaves open",
    ):
        load_rankings(path)
    assert len(load_rankings(path, skip_bad=True).records) == 1


def test_hashes_of_older_data_stay():
    plain = Ranking(prompt=PROMPT, completions=("a", "b"))
    assert content_hash([plain]) == "55fc5f019ad37fd87aa2cafd0f7a4257e627be937e5001229dcf38ba73bfea0f"
    assert content_hash([BEST]) != content_hash([TIED])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ranks": [1, 2, 2]}, "it must be 4 whole numbers that never decrease"),
        ({"ranks": [1, 3, 2, 4]}, "it must be 4 whole numbers that never decrease"),
        ({"ranks": [1, 2, 2.5, 3]}, "it must be 4 whole numbers that never decrease"),
        ({"ranks": [1, 1, 1, 1]}, "all are tied, so none is better"),
        ({"top": 4}, "it is how many of 4 completions are in order"),
        ({"top": -1}, "it is how many of 4 completions are in order"),
        ({"top": 1, "ranks": [1, 2, 2, 3]}, "the row has ranks too"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(tmp_path: Path, change: dict[str, Any], said: str):
    with pytest.raises(InputError, match=said):
        load_records(lines(tmp_path / "r.jsonl", [{"prompt": "?", "completions": list(TEXTS)} | change]))


def completion(text: str, policy: str, prompt: Prompt = PROMPT) -> Completion:
    return Completion(
        prompt=prompt, text=text, policy=policy, logprob=0.0, tokens=1, ended=True, temperature=1.0, top_p=1.0, top_k=0,
        seed=0, index=0,
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store.open(tmp_path / "s.db") as opened:
        yield opened


def judged(store: Store, choice: Any, ranking: Any, prompt: Prompt = PROMPT, who: str = "ann") -> None:
    ids = [
        store.add_completions(
            [completion(text, f"model {text}", prompt)], store.add_checkpoint(f"model {text}")
        )[0]
        for text in TEXTS
    ]
    (item,) = store.add_items([ids], kind="rank")
    store.add_judgement(
        Judgement(
            item=item,
            annotator=store.add_annotator(who),
            choice=choice,
            ranking=ranking,
            order_shown=(0, 1, 2, 3),
        )
    )


def test_the_store_exports_ties_and_the_best(store: Store, tmp_path: Path):  # D15
    judged(store, "ranking", ((3,), (0, 2), (1,)))
    judged(store, "best", ((2,),), who="bob")
    judged(store, "ranking", ((0, 1, 2, 3),), who="cy")
    tied, best = store.rankings().records
    assert (tied.completions, tied.ranks, tied.top) == (
        ("fourth", "first", "third", "second"),
        (1, 2, 2, 3),
        0,
    )
    assert len(tied.comparisons()) == 5
    assert (best.completions, best.ranks, best.top) == (("third", "first", "second", "fourth"), (), 1)
    assert store.rankings().left_out == {"tie": 1}
    made = store.export("rankings", Filters(), tmp_path / "r.jsonl")
    assert store.exported(made.id) == (tied, best)
    assert len(load_comparisons(tmp_path / "r.jsonl").records) == 5 + 3


def test_what_a_file_says_comes_out_of_the_store_again(store: Store, tmp_path: Path):  # D15
    rows = [
        {"prompt": "one", "completions": list(TEXTS), "ranks": [1, 2, 2, 3], "annotator": "ann"},
        {"prompt": "two", "completions": list(TEXTS), "top": 1, "annotator": "ann"},
        {"prompt": "one", "completions": ["first", "third", "second", "fourth"], "ranks": [5, 6, 6, 9], "annotator": "ann"},
    ]  # fmt: skip
    made = import_records(store, load_records(lines(tmp_path / "r.jsonl", rows)))
    assert (made.rankings, made.repeated) == (2, 1)
    tied, best = store.rankings().records
    assert {frozenset(pair) for pair in pairs(tied.comparisons())} == {
        frozenset(pair) for pair in pairs(TIED.comparisons())
    }
    assert (best.completions[0], best.top, best.ranks) == ("first", 1, ())


@pytest.mark.parametrize("ranking", [(), ((0,), (1,)), ((0, 1),), ((4,),)])
def test_the_best_is_one(store: Store, ranking: Any):
    with pytest.raises(InputError, match="choice"):
        judged(store, "best", ranking)


def test_the_best_of_k_rates_without_bias(store: Store):  # D15
    """Of four models the first is best in six of ten, the second in three, the third in one: read as ties, the rest would be pulled together."""
    for at, best in enumerate([0] * 6 + [1] * 3 + [2]):
        judged(store, "best", ((best,),), Prompt(content=f"prompt {at}"))
    read = votes_of(read_judged(store))
    assert (len(read.votes), len(read.rankings), dict(read.left_out)) == (30, 0, {})
    board = leaderboard(read.votes, prior=1e-6)
    rating = {row.name: row.rating.value for row in board.ratings}
    # Luce's choice axiom: the odds of being best are those of the strengths.
    assert rating["model first"] - rating["model second"] == pytest.approx(400 * 0.30103, abs=0.5)
    assert rating["model second"] - rating["model third"] == pytest.approx(400 * 0.47712, abs=0.5)
