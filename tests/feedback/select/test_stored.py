"""Pairs of a store that are worth asking, and items of those that were chosen, on each database."""

from collections import Counter

import pytest

from prefloop.cli import main
from prefloop.data.store import Filters, Store
from prefloop.data.store.values import Choice, Judgement
from prefloop.errors import InputError
from prefloop.feedback.select import choose, stored, write_scores
from prefloop.feedback.select.stored import text_sha256
from prefloop.records import Prompt
from prefloop.studio.service import Studio
from tests.data.conftest import (  # noqa: F401  (fixtures)
    new_database,
    new_url,
    postgres_server,
    store,
    store_url,
)
from tests.studio.made import completion

PROMPTS = [Prompt(content=f"question {at}") for at in range(8)]


def fill(store: Store, policies: int = 3) -> None:  # noqa: F811
    """A completion of every prompt by each policy."""
    for policy in "xyz"[:policies]:
        id = store.add_checkpoint(policy, weights_sha256=policy * 64)
        store.add_completions([completion(p, f"{policy} says {p.content}", 0, policy) for p in PROMPTS], id)


def say(store: Store, item: int, who: str, choice: Choice, kind: str = "human") -> None:  # noqa: F811
    annotator = store.add_annotator(who, kind=kind)  # type: ignore[arg-type]
    store.add_judgement(Judgement(item=item, annotator=annotator, choice=choice, order_shown=(0, 1)))


def strategies(store: Store) -> Counter[tuple[int, str]]:  # noqa: F811
    from sqlalchemy import select

    from prefloop.data.store import models

    with store.database.read() as session:
        return Counter(
            (round, strategy)
            for round, strategy in session.execute(select(models.ItemRow.round, models.ItemRow.strategy))
        )


def test_candidates_are_pairs_that_nobody_asks_about(store: Store) -> None:  # noqa: F811
    fill(store)
    offered = stored.candidates(store)
    assert len(offered) == 8 * 3
    assert len({each.key for each in offered}) == 24
    assert {each.models for each in offered} == {("x", "y"), ("x", "z"), ("y", "z")}
    same = store.add_checkpoint("w", weights_sha256="w" * 64)
    store.add_completions([completion(PROMPTS[0], "x says question 0", 0, "w")], same)
    assert len(stored.candidates(store)) == 24  # a text that is there already makes no new pair
    chosen = choose([c.key for c in offered], [5, 4, 3], strategy="margin", count=5, uniform=0.4, seed=0)
    ids = stored.add(store, offered, chosen, round=2)
    assert len(set(ids)) == 5
    assert strategies(store) == {(2, "uniform"): 2, (2, "margin"): 3}
    asked = {offered[each.place].key for each in chosen}
    assert {c.key for c in stored.candidates(store)} == {c.key for c in offered} - asked
    only = stored.candidates(store, checkpoints=[store.find_checkpoint("x"), store.find_checkpoint("y")])
    assert {each.models for each in only} == {("x", "y")}
    items = {item.id: item for item in store.items(ids)}
    for id, each in zip(ids, chosen, strict=True):
        candidate = offered[each.place]
        assert tuple(map(text_sha256, items[id].completions)) == candidate.texts
        assert items[id].prompt.sha256 == candidate.prompt


def test_what_scores_say(store: Store) -> None:  # noqa: F811
    fill(store, 2)
    offered = stored.candidates(store)
    scores = {}
    for at, each in enumerate(offered):
        scores[each.scored[0]] = (float(at), 0.0)
        scores[each.scored[1]] = (0.0, 0.0)
    # Of 0 and at: the farther apart, the more the two disagree; the nearer to 0 their mean, the less certain.
    assert stored.by_disagreement(offered, scores) == [7, 6, 5, 4, 3, 2, 1, 0]
    assert stored.by_margin(offered, scores) == [0, 1, 2, 3, 4, 5, 6, 7]
    with pytest.raises(InputError, match="come from one scorer"):
        stored.by_disagreement(offered, {key: value[:1] for key, value in scores.items()})
    del scores[offered[0].scored[0]]
    with pytest.raises(InputError, match="1 of 16 completions have no scores"):
        stored.by_margin(offered, scores)


def test_information_asks_about_the_models_that_are_known_least(store: Store) -> None:  # noqa: F811
    fill(store)
    between = [each for each in stored.candidates(store) if each.models == ("x", "y")]
    items = store.add_items([each.completions for each in between])
    for at, item in enumerate(items):
        say(store, item, "ann", "a" if at % 2 else "b")
    offered = stored.candidates(store)
    order = stored.by_information(store, offered, 6, prior=0.01)
    models = [offered[at].models for at in order]
    assert len(order) == 6
    assert set(models[:2]) == {("x", "z"), ("y", "z")}  # after one of them the other tells more
    assert all("z" in pair for pair in models)


def test_information_without_votes_and_of_one_model(store: Store) -> None:  # noqa: F811
    fill(store)
    offered = stored.candidates(store)
    assert len({offered[at].models for at in stored.by_information(store, offered, 3, prior=0.01)}) >= 2
    one = [each for each in offered if each.models == ("x", "y")]
    alone = [
        stored.CandidatePair(completions=c.completions, prompt=c.prompt, texts=c.texts, models=("x", "x"))
        for c in one
    ]
    assert stored.by_information(store, alone, 3, prior=0.01) == []


def test_conflicts_are_asked_again_in_another_round(store: Store) -> None:  # noqa: F811
    fill(store, 2)
    items = store.add_items([each.completions for each in stored.candidates(store)])
    for item, person, judge in zip(items, "aabbbab", "abbbaat", strict=False):
        say(store, item, "ann", person)  # type: ignore[arg-type]
        say(store, item, "judge", "tie" if judge == "t" else judge, "ai")  # type: ignore[arg-type]
    offered, order = stored.conflicts(store, round=1)
    assert len(offered) == 7  # the eighth pair was judged by nobody
    texts = [store.items([items[at]])[0].completions[0] for at in (1, 4, 6)]
    found = [offered[at].texts[0] for at in order]
    assert set(found[:2]) == {text_sha256(texts[0]), text_sha256(texts[1])}
    assert found[2:] == [text_sha256(texts[2])]
    chosen = choose([c.key for c in offered], order, strategy="conflict", count=4, uniform=0.25, seed=1)
    stored.add(store, offered, chosen, round=1)
    assert strategies(store)[1, "conflict"] >= 2
    assert strategies(store)[1, "uniform"] == 1
    again, _ = stored.conflicts(store, round=1)
    assert len(again) == 7 - len(chosen)


def test_the_command_makes_items_for_people_and_simulations(
    tmp_path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "utility.py").write_text(
        "def length(prompt, completion):\n    return float(len(completion))\n"
    )
    with Store.open("s.db") as opened:
        fill(opened)
        rows = {key: (float(at), 1.0) for at, c in enumerate(stored.candidates(opened)) for key in c.scored}
    write_scores("scores.jsonl", rows.items())
    line = "label select --store s.db --strategy disagreement --scores scores.jsonl --count 10 --round 1 --project Ask --overlap 2"
    assert main(line.split()) == 0
    out = capsys.readouterr().out
    assert "s.db: 10 of 24 pairs chosen (uniform 2, disagreement 8), in round 1" in out
    assert "10 new in project 'Ask'" in out
    with Store.open("s.db") as opened:
        assert Studio(opened).find_project("Ask").settings.overlap == 2
    simulate = "label simulate --store s.db --utility utility:length --pairs none --round 1 --temperature 0"
    assert main(simulate.split()) == 0
    assert "10 pairs, 0 of them new" in capsys.readouterr().out
    with Store.open("s.db") as opened:
        assert len(opened.comparisons(Filters(strategies=("uniform",))).records) == 2
        assert len(opened.comparisons().records) == 10
    assert main(simulate.replace("--round 1", "--round 9").split()) == 2
    assert "round 9 has no pairs yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--strategy margin", "strategy is margin, which reads scores; name a file"),
        ("--strategy uniform --scores x", "strategy is uniform, which reads no scores"),
        ("--uniform 0", "it must be a share above 0"),
        ("--strategy conflict", "every pair that both people and an AI judge"),
        (
            "--strategy conflict --checkpoints x",
            "checkpoints is x, but conflict takes pairs that were judged already; leave it out",
        ),
        ("--checkpoints nobody", "nobody"),
    ],
)
def test_what_cannot_be_selected_is_said(
    words: str, message: str, tmp_path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Store.open("s.db") as opened:
        fill(opened)
    assert main(f"label select --store s.db {words}".split()) == 2
    assert message in capsys.readouterr().err
