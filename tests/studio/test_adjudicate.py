"""Deciding where people disagree: who sees what, what is stored, and what exports, agreement and ratings make of it."""

import re
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from prefloop.data.store import Filters
from prefloop.data.store.values import Conflict
from prefloop.feedback.judged import read_judged
from prefloop.studio import adjudicate
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, NotFound, ProjectSettings
from tests.studio.web import Person

KEY = "a-key-of-its-own"


@pytest.fixture
def studio(on_each: Studio) -> Studio:
    return on_each


@pytest.fixture
def project(studio: Studio) -> int:
    """Three people have judged all six pairs: they agree on the first three, and on the others one says the opposite."""
    made = studio.create_project(ProjectSettings(name="p", overlap=3))
    items = studio.store.add_pairs().ids
    studio.add_tasks(made.id, items)
    texts = {item.id: item.completions for item in studio.store.items(items)}
    for number, name in enumerate(("ann-secret", "bea-secret", "cid-secret")):
        who = studio.store.add_annotator(name)
        while (got := studio.lease(made.id, who)) is not None:
            (item,) = (id for id, both in texts.items() if set(both) == set(got.completions))
            a_first = got.completions == texts[item]
            says_a = number != 2 or item in items[:3]
            answer = Answer(choice="first" if says_a == a_first else "second", rationale=f"because {number}")
            studio.submit(got.token, who, answer, key="12345678")
    return made.id


def waiting(studio: Studio, project: int, who: int) -> list[int]:
    return adjudicate.queue(studio, studio.project(project), who)


def test_what_people_disagree_on_waits_until_it_is_decided(studio: Studio, project: int) -> None:
    judge = studio.store.add_annotator("judge")
    items = waiting(studio, project, judge)
    assert len(items) == 3
    case = adjudicate.case(studio, project, items[0], judge)
    order = adjudicate.order_for(items[0], judge, 2)
    (item,) = studio.store.items([items[0]])
    assert case.completions == tuple(item.completions[slot] for slot in order)
    a, b = ("first", "second") if order == (0, 1) else ("second", "first")
    assert sorted(choice for choice, _, _ in case.said) == sorted([a, a, b])
    assert {why for _, why, _ in case.said} == {"because 0", "because 1", "because 2"}
    decided = adjudicate.decide(studio, project, items[0], judge, b, reason="it is", last=0, key=KEY)
    assert adjudicate.decide(studio, project, items[0], judge, b, reason="it is", last=0, key=KEY) == decided
    assert waiting(studio, project, judge) == items[1:]
    assert adjudicate.decided(studio, project) == 1
    # Decided anew, by the same and by another one: the last decision holds, and none is lost.
    again = adjudicate.case(studio, project, items[0], judge)
    assert again.decided == b
    adjudicate.decide(studio, project, items[0], judge, "tie", reason="", last=again.last, key=f"{KEY} 2")
    other = studio.store.add_annotator("other")
    with pytest.raises(Conflict, match="in the meantime"):
        adjudicate.decide(studio, project, items[0], other, "tie", reason="", last=again.last, key=KEY)
    now = adjudicate.case(studio, project, items[0], other)
    adjudicate.decide(studio, project, items[0], other, "both_bad", reason="", last=now.last, key=KEY)
    assert adjudicate.case(studio, project, items[0], judge).decided == "both_bad"
    assert studio.store.counts()["adjudication"] == 3
    assert studio.store.counts()["judgement"] == 18 + 3


def test_a_decision_stands_in_place_of_the_answers_only_where_asked_for(studio: Studio, project: int) -> None:
    judge = studio.store.add_annotator("judge")
    before = studio.store.comparisons()
    export = studio.store.export("comparisons")
    item = waiting(studio, project, judge)[0]
    order = adjudicate.order_for(item, judge, 2)
    a, b = ("first", "second") if order == (0, 1) else ("second", "first")
    adjudicate.decide(studio, project, item, judge, b, reason="", last=0, key=KEY)
    # Not asked for: as before, and the decision is counted as left out.
    plain = studio.store.comparisons()
    assert plain.records == before.records
    assert plain.left_out == {"adjudication": 1}
    taken = studio.store.comparisons(Filters(adjudicated=True))
    assert taken.left_out == {"adjudicated": 3}
    assert len(taken.records) == 18 - 3 + 1
    (decided,) = studio.store.items([item])
    (record,) = [each for each in taken.records if each.annotator.startswith("adjudicator-")]
    assert (record.chosen, record.rejected) == decided.completions[::-1]
    new = studio.store.export("comparisons", Filters(adjudicated=True))
    assert studio.store.exported(new.id) == taken.records
    assert studio.store.exported(export.id) == before.records
    # No vote in agreement and ratings; the only one where asked for.
    assert len(read_judged(studio.store)) == 18
    judged = [each for each in read_judged(studio.store, Filters(adjudicated=True)) if each.item == item]
    assert [each.choice for each in judged] == ["b"]
    assert a != b


def test_the_side_that_is_decided_for_is_the_one_that_is_stored(studio: Studio, project: int) -> None:
    first = studio.store.add_annotator("judge 0")
    item = waiting(studio, project, first)[0]
    seen = set()
    for number in range(8):
        judge = studio.store.add_annotator(f"judge {number}")
        for place, choice in enumerate(("first", "second")):
            case = adjudicate.case(studio, project, item, judge)
            key = f"{KEY} {number} {place}"
            adjudicate.decide(studio, project, item, judge, choice, reason="", last=case.last, key=key)
            taken = studio.store.comparisons(Filters(adjudicated=True)).records
            (record,) = [each for each in taken if each.annotator.startswith("adjudicator-")]
            assert (record.chosen, record.rejected) == (case.completions[place], case.completions[1 - place])
            assert adjudicate.case(studio, project, item, judge).decided == choice
        seen.add(adjudicate.order_for(item, judge, 2))
    assert seen == {(0, 1), (1, 0)}


def test_nobody_decides_on_their_own_answer(studio: Studio, project: int) -> None:
    ann = studio.store.add_annotator("ann-secret")
    assert waiting(studio, project, ann) == []
    item = waiting(studio, project, studio.store.add_annotator("judge"))[0]
    with pytest.raises(NotFound):
        adjudicate.decide(studio, project, item, ann, "tie", reason="", last=0, key=KEY)
    agreed = next(each.id for each in studio.store.items() if each.id not in waiting(studio, project, 99))
    with pytest.raises(NotFound):
        adjudicate.case(studio, project, agreed, studio.store.add_annotator("judge"))


def test_the_database_itself_refuses_to_take_a_decision_back(studio: Studio, project: int) -> None:
    judge = studio.store.add_annotator("judge")
    item = waiting(studio, project, judge)[0]
    adjudicate.decide(studio, project, item, judge, "tie", reason="", last=0, key=KEY)
    for statement in ("DELETE FROM adjudication", "UPDATE adjudication SET annotator_id = 1"):
        with pytest.raises(DatabaseError, match="is refused"), studio.write() as session:
            session.execute(text(statement))


def test_the_pages_are_for_adjudicators_and_name_nobody(studio: Studio, project: int) -> None:
    ann, judge = Person(studio, "ann"), Person(studio, "judge", "adjudicator")
    assert ann.client.get("/adjudicate").status_code == 403
    queue = judge.client.get("/adjudicate")
    (path,) = re.findall(r'href="(/adjudicate/\d+/\d+)"', queue.text)
    assert ann.client.get(path).status_code == 403
    case = judge.client.get(path)
    for secret in ("ann-secret", "bea-secret", "person-", "secret-policy", "temperature", "slot", "seed"):
        assert secret not in case.text
    assert "because 2" in case.text

    def form(**changed: Any) -> dict[str, Any]:
        hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', case.text))
        return hidden | {"choice": "tie", "reason": "neither"} | changed

    assert judge.client.post(path, data=form(csrf="wrong")).status_code == 403
    assert ann.client.post(path, data=form(csrf=ann.csrf)).status_code == 403
    assert judge.client.post(path, data=form(choice="good")).status_code == 422
    assert judge.client.post(path, data=form(last="x")).status_code == 422
    assert studio.store.counts()["adjudication"] == 0
    done = judge.client.post(path, data=form())
    assert (done.status_code, done.headers["location"]) == (303, f"/adjudicate?project={project}")
    assert judge.client.post(path, data=form()).status_code == 303  # sent twice
    assert studio.store.counts()["adjudication"] == 1
    # An adjudicator is no admin.
    assert judge.client.get("/admin").status_code == 403
    boss = Person(studio, "boss", "admin")
    exported = boss.send("GET", f"/projects/{project}/export?adjudicated=true")
    assert exported.status_code == 200
    assert len(exported.text.splitlines()) == 15
