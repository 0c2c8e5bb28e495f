"""Items are found, changed many at a time, sent back with a note, and disputed."""

import json
from typing import Any

import pytest
from sqlalchemy import select

from prefloop.data.store import Store, models, studio_models
from prefloop.data.store.values import Conflict
from prefloop.errors import InputError
from prefloop.records import Prompt
from prefloop.studio import accounts, disputes, item_page, items, people_tags
from prefloop.studio.items import Wanted, find, words_of
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, NotFound, ProjectSettings
from tests.studio.conftest import Clock
from tests.studio.made import completion
from tests.studio.web import PASSWORD, Person


def add_pair(studio: Studio, asked: str, *replies: str, policy: str = "one", score: float = 0.0) -> int:
    """A pair of replies, in every project's reach; the item."""
    checkpoint = studio.store.add_checkpoint(policy)
    prompt = Prompt(content=asked)
    ids = studio.store.add_completions(
        [completion(prompt, text, index, policy) for index, text in enumerate(replies)], checkpoint
    )
    (item,) = studio.store.add_items([ids], kind="pair", round=int(score))
    return item


@pytest.fixture
def project(studio: Studio) -> int:
    return make(studio)


def make(studio: Studio) -> int:
    """Four items: tea, coffee (another model), Käse (with a percent sign), and one without a priority."""
    made = studio.create_project(ProjectSettings(name="p", overlap=2)).id
    wanted = [
        add_pair(studio, "How do I make tea?", "Boil water.", "Use a kettle."),
        add_pair(studio, "And coffee?", "Grind beans.", "Boil water twice.", policy="two", score=2),
        add_pair(studio, "Was ist Käse?", "100% Milch", 'Ein "guter" Käse'),
        add_pair(studio, "Nothing", "a_b", "axb"),
    ]
    studio.add_tasks(made, wanted, priorities={wanted[1]: 2.0, wanted[2]: 1.0})
    return made


def tasks(studio: Studio, project: int, **wanted: Any) -> list[int]:
    """Places, from 0, of the items found, in the order they were added."""
    with studio.read() as session:
        known = session.scalars(
            select(studio_models.TaskRow.id)
            .where(studio_models.TaskRow.project_id == project)
            .order_by(studio_models.TaskRow.id)
        ).all()
    found = find(studio, project, Wanted(**wanted))
    assert items.count(studio, project, Wanted(**wanted)) == len(found)
    return sorted(known.index(each.task) for each in found)


def test_on_each_database_items_are_found_by_words_and_filters(on_each: Studio) -> None:
    project = make(on_each)

    def places(**wanted: Any) -> list[int]:
        return tasks(on_each, project, **wanted)

    assert places() == [0, 1, 2, 3]
    assert places(text="WATER") == [0, 1]
    assert places(text="boil twice") == [1]
    assert places(text='"boil water."') == [0]
    assert places(text="Käse") == [2]  # in a prompt, too, which stands there as JSON
    assert places(text='guter"') == [2]
    assert places(text="100%") == [2]
    assert places(text="a_b") == [3]  # not axb, which LIKE would take
    assert places(text="no such word") == []
    assert places(least_score=1) == [1, 2]
    assert places(most_score=0) == [0, 3]
    assert places(round=2) == [1]
    two = {name: id for id, name in items.choices(on_each, project).models}["two"]
    assert places(model=two) == [1]
    ann, bea = (
        accounts.add_person(on_each, login, PASSWORD, "annotator").annotator for login in ("ann", "bea")
    )
    for who, choices in ((ann, ("first", "tie")), (bea, ("both_bad", "tie"))):
        for choice in choices:
            got = on_each.lease(project, who)
            assert got is not None
            said: Any = choice
            answer = Answer(
                choice=said, flags=("unsafe",) if who == ann else (), rationale="Zu kalt", duration_ms=10
            )
            on_each.submit(got.token, who, answer, key="12345678")
    # Items with a priority come first: coffee, then cheese.
    assert places(divided=True) == [1]
    assert places(flag="unsafe") == [1, 2]
    assert places(flag="unsaf") == []
    assert places(text="kalt") == [1, 2]
    assert places(too_fast=True) == [1, 2]
    assert places(state="complete") == [1, 2]
    assert places(state="open") == [0, 3]
    assert places(state="unanswered") == [0, 3]
    name = next(each.pseudonym for each in accounts.people(on_each) if each.login == "bea")
    assert places(annotator=name, text="coffee") == [1]
    assert places(annotator="nobody") == []
    first = find(on_each, project, Wanted(), limit=3)
    rest = find(on_each, project, Wanted(), before=first[-1].task)
    assert [len(first), len(rest)] == [3, 1]
    assert first[1].said == {"tie": 2}
    assert words_of('a "b c" d""') == ["a", "b c", "d"]
    with pytest.raises(InputError, match="more than 10 words"):
        Wanted(text="a " * 11)


def test_on_each_database_many_items_are_changed_or_none(on_each: Studio) -> None:
    project = make(on_each)
    ann = accounts.add_person(on_each, "ann", PASSWORD, "annotator").annotator
    held = on_each.lease(project, ann)
    assert held is not None
    numbers = sorted(each.task for each in find(on_each, project, Wanted()))

    def act(action: Any, which: Any, value: str = "") -> int:
        return items.act(on_each, project, action, which, value=value, by=None)

    assert act("archive", Wanted(text="water")) == 2
    assert tasks(on_each, project) == [2, 3]
    assert tasks(on_each, project, state="archived") == [0, 1]
    assert on_each.progress([project])[project].items == 2
    # What somebody held of it is with nobody; their answer, under way, is kept as an extra one and is no data.
    on_each.submit(held.token, ann, Answer(choice="first"), key="12345678")
    assert on_each.store.comparisons().left_out == {"archived": 1}
    got = on_each.lease(project, ann)
    assert got is not None
    assert got.prompt.content == "Was ist Käse?"
    assert act("restore", Wanted(state="archived")) == 2
    assert len(on_each.store.comparisons().records) == 1
    assert act("overlap", [numbers[0]], "3") == 1
    assert act("priority", [numbers[0]], "9.5") == 1
    (found,) = find(on_each, project, Wanted(least_score=9))
    assert (found.overlap, found.score) == (5, 9.5)
    with pytest.raises(InputError, match="is not in this project"):
        act("archive", [numbers[1], 10**6])
    assert tasks(on_each, project, state="archived") == []
    for action, value, message in (
        ("overlap", "x", "overlap is 'x'"),
        ("overlap", "1.5", "overlap is '1.5'"),
        ("priority", "nan", "priority is 'nan'"),
        ("assign", "group:", "tag is 'group:'"),
        ("assign", "person:nobody", "no account"),
        ("burn", "", "action is 'burn'"),
    ):
        with pytest.raises(InputError, match=message):
            act(action, [numbers[0]], value)


def test_requeued_items_are_asked_again_first_and_of_the_same_people(studio: Studio, project: int) -> None:
    ann = studio.store.add_annotator("ann")
    for _ in range(4):
        got = studio.lease(project, ann)
        assert got is not None
        studio.submit(got.token, ann, Answer(choice="first", edited="better"), key="12345678")
    assert studio.lease(project, ann) is None
    before = studio.store.comparisons().records
    assert items.act(studio, project, "requeue", Wanted(text="tea"), by=None) == 1
    # The answer and the preference for what was rewritten with it are taken back.
    assert len(studio.store.comparisons().records) == len(before) - 2
    got = studio.lease(project, ann)
    assert got is not None
    assert (got.prompt.content, got.draft) == ("How do I make tea?", {})
    studio.submit(got.token, ann, Answer(choice="second"), key="87654321")
    assert studio.progress([project])[project].submitted == 4


def test_items_are_kept_for_a_person_a_group_a_skill_or_a_language(studio: Studio, project: int) -> None:
    boss, ann, bea = Person(studio, "boss", "admin"), Person(studio), Person(studio, "bea")
    people = {each["login"]: each for each in boss.send("GET", "/people").json()}
    tags = ["language:de", "group:night shift"]
    assert boss.send("PUT", f"/people/{people['bea']['account']}/tags", {"tags": tags}).status_code == 204
    wrong = boss.send("PUT", f"/people/{people['bea']['account']}/tags", {"tags": ["de"]})
    assert "tag is 'de'" in wrong.json()["detail"]
    assert bea.send("PUT", f"/people/{people['bea']['account']}/tags", {"tags": []}).status_code == 403
    for text, audience in (
        ("tea", f"person:{people['ann']['pseudonym']}"),
        ("coffee", "group:night shift"),
        ("Käse", "language:de"),
        ("Nothing", "skill:python"),
    ):
        body = {"action": "assign", "wanted": {"text": text}, "value": audience}
        assert boss.send("POST", f"/projects/{project}/items/actions", body).json() == {"items": 1}
    assert ann.next(project)["sources"][0] in ("Boil water.", "Use a kettle.")
    left = {
        who.who.login: who.send("POST", "/assignments/next", {"project": project}).json()["left"]
        for who in (ann, bea)
    }
    assert left == {"ann": 1, "bea": 2}
    first = bea.next(project)
    second = bea.next(project, [first["token"]])
    assert [first["prompt"][0]["source"], second["prompt"][0]["source"]] == ["And coffee?", "Was ist Käse?"]
    assert bea.next(project, [first["token"], second["token"]]) is None
    page = boss.client.get(f"/admin/projects/{project}/items?audience=language:de").text
    assert "for language de" in page
    assert "coffee" not in page
    with studio.read() as session:
        assert (
            people_tags.in_words(session, {f"person:{people['ann']['pseudonym']}"}).popitem()[1]
            == "person ann"
        )


def test_an_answer_is_sent_back_answered_anew_and_disputed(
    studio: Studio, project: int, clock: Clock
) -> None:
    boss, ann, bea = Person(studio, "boss", "admin"), Person(studio), Person(studio, "bea")
    item = ann.next(project)
    assert (
        ann.submit(item["token"], {"choice": "first", "rationale": "so", "edited": "Mine"}).status_code == 200
    )
    task = find(studio, project, Wanted(text="coffee"))[0].task
    path = f"/projects/{project}/items/{task}"
    (answer,) = boss.send("GET", path).json()["answers"]
    note = {"token": answer["token"], "text": "Look at the second one."}
    assert ann.send("POST", f"/projects/{project}/send_back", note).status_code == 403
    assert boss.send("POST", f"/projects/{project}/send_back", note).status_code == 204
    assert boss.send("POST", f"/projects/{project}/send_back", note).status_code == 409
    # It stays as it is until its annotator, who gets it before anything else, answers anew.
    assert len(studio.store.comparisons().records) == 2
    again = ann.next(project)
    assert (again["token"], again["note"]) == (item["token"], "Look at the second one.")
    assert again["draft"]["rationale"] == "so"
    assert (
        ann.send("POST", f"/assignments/{again['token']}/skip", {}, Idempotency_Key="12345678").status_code
        == 409
    )
    assert ann.submit(again["token"], {"choice": "second"}, key="another-key").status_code == 200
    assert ann.submit(again["token"], {"choice": "second"}, key="another-key").status_code == 200
    assert ann.next(project)["token"] != item["token"]
    (now,) = boss.send("GET", path).json()["answers"]
    assert len(now["earlier"]) == 1
    assert [each["kind"] for each in now["notes"]] == ["sent_back", "revised"]
    (record,) = studio.store.comparisons().records  # what was rewritten with the first answer went with it
    assert record.chosen == again["sources"][1]
    assert studio.progress([project])[project].submitted == 1
    # Sent back once more, its annotator says why it stands, and a manager settles that.
    boss.send("POST", f"/projects/{project}/send_back", note)
    assert bea.send("POST", f"/assignments/{item['token']}/dispute", {"text": "x"}).status_code == 404
    words = {"text": "The second is about tea."}
    assert ann.send("POST", f"/assignments/{item['token']}/dispute", words).status_code == 204
    assert ann.next(project)["token"] != item["token"]
    assert "1 disputed" in boss.client.get("/admin").text
    inbox = boss.client.get("/admin/inbox").text
    assert "The second is about tea." in inbox
    assert ann.client.get("/admin/inbox").status_code == 403
    form = {"csrf": boss.csrf, "token": item["token"], "note": "You are right.", "action": "settle"}
    assert boss.client.post(f"/admin/inbox/{project}", data=form).status_code == 303
    assert "Nothing waits for you." in boss.client.get("/admin/inbox").text
    history = ann.client.get("/history").text
    assert '<strong>The project</strong>: <span dir="auto">You are right.</span>' in history
    assert "boss" not in history
    with pytest.raises(Conflict, match="no open dispute"):
        disputes.settle(studio, project, item["token"], "again", by=boss.who.annotator)
    with pytest.raises(NotFound):
        disputes.send_back(studio, project, "nothing", "x", by=boss.who.annotator)


def test_an_items_page_has_every_answer_and_where_its_replies_come_from(studio: Studio, project: int) -> None:
    boss, ann = Person(studio, "boss", "admin"), Person(studio)
    got = ann.next(project)
    ann.submit(got["token"], {"choice": "tie", "rationale": "<b>same</b>", "flags": ["untrue"]})
    item = find(studio, project, Wanted(text="coffee"))[0]
    robot = studio.store.add_annotator("robot", kind="ai")
    from prefloop.data.store import Judgement

    studio.store.add_judgement(Judgement(item=item.item, annotator=robot, choice="b", order_shown=(1, 0)))
    page = boss.client.get(f"/admin/projects/{project}/items/{item.task}").text
    for text in (
        "And coffee?",
        "Grind beans.",
        "two",
        "temperature 0.7",
        "equally good",
        "&lt;b&gt;same",
        "untrue",
        "AI judge",
        "b is better",
    ):
        assert text in page, text
    assert "checkpoint two" in page  # of its provenance
    form = {"csrf": boss.csrf, "action": "known", "gold": "b", "stage": "practice", "note": "Beans first."}
    assert boss.client.post(f"/admin/projects/{project}/items/{item.task}", data=form).status_code == 303
    assert tasks(studio, project, known="practice") == [1]
    assert item_page.item_page(studio, project, item.task).gold_note == "Beans first."
    with pytest.raises(InputError, match="known answer is 'good'"):
        item_page.set_known(studio, project, item.task, "good", by=boss.who.annotator)
    other = studio.create_project(ProjectSettings(name="q")).id
    assert boss.client.get(f"/admin/projects/{other}/items/{item.task}").status_code == 404
    assert ann.client.get(f"/admin/projects/{project}/items").status_code == 403
    assert ann.send("POST", f"/projects/{project}/items/find", {}).status_code == 403


def test_the_items_page_finds_and_acts_by_forms(studio: Studio, project: int) -> None:
    boss = Person(studio, "boss", "admin")
    path = f"/admin/projects/{project}/items"
    page = boss.client.get(f"{path}?text=water").text
    assert "2 items" in page
    assert "Was ist" not in page
    form = {"csrf": boss.csrf, "text": "water", "which": "all", "action": "priority", "value_priority": "5"}
    done = boss.client.post(path, data=form)
    assert done.headers["location"] == f"{path}?text=water&done=priority%3A+2+items"
    assert tasks(studio, project, least_score=5) == [0, 1]
    marked = [str(each.task) for each in find(studio, project, Wanted(text="water"))]
    form = {"csrf": boss.csrf, "task": marked, "which": "marked", "action": "archive"}
    assert boss.client.post(path, data=form).status_code == 303
    assert tasks(studio, project) == [2, 3]
    none = boss.client.post(path, data={"csrf": boss.csrf, "which": "marked", "action": "archive"})
    assert none.status_code == 422
    assert "no item is marked" in none.text
    wrong = boss.client.get(f"{path}?least_score=high")
    assert (wrong.status_code, "least score is &#39;high&#39;" in wrong.text) == (422, True)
    assert boss.client.post(path, data={**form, "csrf": "x"}).status_code == 403


def test_items_of_an_older_store_are_there_for_everybody(store: Store) -> None:
    studio = Studio(store)
    project = make(studio)
    items.act(studio, project, "archive", Wanted(text="tea"), by=None)
    store.database.migrate("0010")
    store.database.migrate()
    assert tasks(studio, project) == [0, 1, 2, 3]
    assert tasks(studio, project, state="open") == [0, 1, 2, 3]
    with studio.read() as session:
        content = session.scalars(select(models.PromptRow.content)).first()
    assert json.dumps(content)
