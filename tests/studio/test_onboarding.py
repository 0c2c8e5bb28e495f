"""What comes before a person's work, and what ends it: guidelines, practice, qualification, and too many wrong known answers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from prefloop.data.store import Filters, Store, models, studio_models
from prefloop.data.store.values import Conflict
from prefloop.feedback.agreement import blocks, drift
from prefloop.feedback.judged import read_judged
from prefloop.studio import accounts, at_work
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, NotFound, ProjectSettings, version_of
from tests.studio.conftest import Clock
from tests.studio.made import fill
from tests.studio.web import PASSWORD, Person


def asked(person: Person, project: int) -> Any:
    return person.send("POST", "/assignments/next", {"project": project, "have": []}).json()


def sides(studio: Studio) -> Callable[[Any, bool], str]:
    """How to say of an item that its slot a is better, or that b is, whatever side it stands on."""
    first = {item.completions[0] for item in studio.store.items()}

    def say(item: Any, right: bool) -> str:
        texts = item["sources"] if isinstance(item, dict) else item.completions
        return "first" if (texts[0] in first) == right else "second"

    return say


def test_guidelines_come_first_and_again_when_they_change(studio: Studio) -> None:
    project = studio.create_project(ProjectSettings(name="p", guidelines="Be *fair*", overlap=9)).id
    studio.add_tasks(project, studio.store.add_pairs().ids)
    ann = Person(studio)
    said = asked(ann, project)
    assert said["assignment"] is None
    assert said["guidelines"] == {
        "version": version_of("Be *fair*"),
        "html": "<p>Be <em>fair</em></p>\n",
        "changed": False,
    }
    ann.read(project, said["guidelines"]["version"])
    ann.read(project, said["guidelines"]["version"])  # once more changes nothing
    held = asked(ann, project)["assignment"]
    settings = studio.project(project).settings
    studio.change_project(project, replace(settings, guidelines="Be kind"))
    assert ann.submit(held["token"], {"choice": "first"}).status_code == 200
    said = asked(ann, project)
    assert (said["assignment"], said["guidelines"]["changed"]) == (None, True)
    old = ann.send("POST", f"/projects/{project}/guidelines/read", {"version": version_of("Be *fair*")})
    assert old.status_code == 409
    ann.submit(ann.next(project)["token"], {"choice": "first"})
    with studio.read() as session:
        table, texts = models.JudgementRow, studio_models.GuidelineVersionRow
        given = session.scalars(select(table.guideline_version).order_by(table.id)).all()
        # What was answered under the first ones keeps their version, whose text is kept.
        assert given == [version_of("Be *fair*"), version_of("Be kind")]
        kept = dict(session.execute(select(texts.version, texts.text)).all())
    assert kept == {version_of(text): text for text in ("Be *fair*", "Be kind")}
    stranger = Person(studio, "bea")
    studio.change_project(project, replace(settings, access="members"))
    answer = stranger.send("POST", f"/projects/{project}/guidelines/read", {"version": "x"})
    assert answer.status_code == 404


def make(studio: Studio, **settings: Any) -> tuple[int, list[int]]:
    """Two items of practice, two of qualification, and two to judge; of the known ones a is right."""
    settings = {"overlap": 9, "qualify_items": 2, "qualify_share": 1.0} | settings
    project = studio.create_project(ProjectSettings(name="p", **settings)).id
    items = list(studio.store.add_pairs().ids)
    studio.add_tasks(project, items[:2], gold=dict.fromkeys(items[:2], "a"), stage="practice")
    studio.add_tasks(project, items[2:4], gold=dict.fromkeys(items[2:4], "a"), stage="qualification")
    studio.add_tasks(project, items[4:])
    return project, items


def test_practice_then_qualification_then_work(studio: Studio) -> None:
    project, items = make(studio)
    say, ann = sides(studio), Person(studio)
    with studio.write() as session:
        task = studio_models.TaskRow
        session.scalars(select(task).where(task.item_id == items[0])).one().gold_note = "It names the place."
    told = []
    for right in (True, False):
        item = ann.next(project)
        assert item["stage"] == "practice"
        body = {"choice": say(item, right)}
        answer = ann.submit(item["token"], body, key="same-key")
        told.append(answer.json()["feedback"])
        assert ann.submit(item["token"], body, key="same-key").json()["feedback"] == told[-1]
        assert told[-1]["expected"] == say(item, True)
        assert ann.send("POST", f"/assignments/{item['token']}/undo").status_code == 409
    # In the order in which they were added.
    assert [(each["right"], each["note"]) for each in told] == [(True, "It names the place."), (False, "")]
    first = ann.next(project)
    second = ann.next(project, [first["token"]])
    assert (first["stage"], second["stage"]) == ("qualification", "qualification")
    # What comes next depends on these two.
    assert ann.next(project, [first["token"], second["token"]]) is None
    for item in (first, second):
        assert ann.submit(item["token"], {"choice": say(item, True)}).json()["feedback"] is None
    item = ann.next(project)
    assert item["stage"] == ""
    ann.submit(item["token"], {"choice": "first"})
    said = asked(ann, project)
    assert (said["done"], said["left"]) == (1, 1)
    # What came before the work is no data.
    made = studio.store.comparisons()
    assert (len(made.records), made.left_out) == (1, {"practice": 4})
    assert len(read_judged(studio.store, Filters())) == 1
    (row,) = at_work.people(studio, project)
    assert (row.state, row.answers, row.gold.n, row.qualification.value) == ("working", 1, 0, 1.0)


def test_who_does_not_qualify_waits_until_somebody_lets_them_work(studio: Studio) -> None:
    project, _ = make(studio)
    say, ann, boss = sides(studio), Person(studio), Person(studio, "boss", "admin")
    while (item := ann.next(project)) is not None:
        ann.submit(item["token"], {"choice": say(item, item["stage"] == "practice")})
    said = asked(ann, project)
    why = "You got 0 of 2 qualification items right; 100% are needed. The managers of the project have been told."
    assert (said["left"], said["why"]) == (0, why)
    assert why in ann.client.get("/").text
    assert f'/admin/projects/{project}/people">1 paused' in boss.client.get("/admin").text
    assert "1 person cannot continue here" in boss.client.get(f"/admin/projects/{project}").text
    page = boss.client.get(f"/admin/projects/{project}/people").text
    assert "did not qualify" in page
    (row,) = boss.send("GET", f"/projects/{project}/people").json()
    assert (row["login"], row["state"], row["qualification"]["value"], row["gold"]) == (
        "ann",
        "failed",
        0,
        None,
    )
    body = {"annotator": row["pseudonym"], "state": "working"}
    assert ann.send("PUT", f"/projects/{project}/standing", body).status_code == 403
    form = {"csrf": boss.csrf, **body}
    assert boss.client.post(f"/admin/projects/{project}/people", data=form).status_code == 303
    assert ann.next(project)["stage"] == ""


def test_too_many_wrong_known_answers_pause_a_person(studio: Studio, clock: Clock) -> None:
    settings = ProjectSettings(name="p", overlap=9, gold_share=0.5, gold_floor=0.5, gold_window=3)
    project = studio.create_project(settings).id
    items = fill(studio.store, 8, mark="more ") and studio.store.add_pairs().ids
    studio.add_tasks(project, items[:7], gold=dict.fromkeys(items[:7], "a"))
    studio.add_tasks(project, items[7:])
    say, ann, boss = sides(studio), Person(studio), Person(studio, "boss", "admin")
    known = {text for item in studio.store.items(items[:7]) for text in item.completions}

    def work(pattern: str) -> list[str]:
        """Answer known items right (r) or wrong (w), the others anyhow; what came of each known one."""
        wanted, came = list(pattern), []
        while wanted:
            item = ann.next(project)
            if item is None:
                return [*came, "paused"]
            clock.forward(10)
            right = item["sources"][0] not in known or wanted[0] == "r"
            assert ann.submit(item["token"], {"choice": say(item, right)}).status_code == 200
            if item["sources"][0] in known:
                came.append(wanted.pop(0))
        return came

    assert work("rrww") == list("rrww")  # one of the last three is right: below one half
    assert ann.next(project) is None
    assert "Too few of your answers" in asked(ann, project)["why"]
    (row,) = at_work.people(studio, project)
    assert (row.state, row.gold.n) == ("paused", 4)
    body = {"annotator": row.pseudonym, "state": "working"}
    assert boss.send("PUT", f"/projects/{project}/standing", body).status_code == 204
    # Back at work, what was wrong before no longer counts.
    assert work("wr") == ["w", "r"]
    assert ann.next(project) is not None
    events = [each["action"] for each in boss.send("GET", "/audit").json()]
    assert [each for each in events if each in ("pause", "let work")] == ["let work", "pause"]


def test_an_admin_pauses_somebody_with_words_and_gives_their_items_to_others(studio: Studio) -> None:
    project = studio.create_project(ProjectSettings(name="p")).id
    studio.add_tasks(project, studio.store.add_pairs().ids[:1])
    ann, bea, boss = Person(studio), Person(studio, "bea"), Person(studio, "boss", "admin")
    held = ann.next(project)
    assert bea.next(project) is None
    pseudonym = next(each.pseudonym for each in accounts.people(studio) if each.login == "ann")
    body = {"annotator": pseudonym, "state": "paused", "why": "Please call me."}
    assert boss.send("PUT", f"/projects/{project}/standing", body).status_code == 204
    assert asked(ann, project)["why"].startswith("Please call me. Your work here is paused.")
    assert bea.next(project) is not None
    # An answer that was under way is kept.
    assert ann.submit(held["token"], {"choice": "first"}).json()["state"] == "surplus"
    with pytest.raises(NotFound):
        at_work.set_standing(studio, project, "nobody", "paused", by=None)


def test_on_each_database_onboarding_goes_its_way(on_each: Studio) -> None:
    project, _ = make(on_each, guidelines="Be fair", gold_floor=0.5, gold_window=1)
    say = sides(on_each)
    ann = accounts.add_person(on_each, "ann", PASSWORD, "annotator").annotator
    program = on_each.store.add_annotator("program")
    assert on_each.lease(project, ann) is None
    with pytest.raises(Conflict):
        on_each.acknowledge(project, ann, "other")
    on_each.acknowledge(project, ann, version_of("Be fair"))
    stages = []
    while (got := on_each.lease(project, ann)) is not None:
        stages.append(got.stage)
        choice: Any = say(got, True)
        on_each.submit(got.token, ann, Answer(choice=choice), key="12345678")
    assert stages == ["practice", "practice", "qualification", "qualification", "", ""]
    # A program of whoever has the store goes straight to the work.
    got = on_each.lease(project, program)
    assert got is not None
    assert got.stage == ""
    (row,) = at_work.people(on_each, project)
    assert (row.login, row.state) == ("ann", "working")


def test_an_older_store_keeps_its_guidelines_under_their_version(store: Store) -> None:
    studio = Studio(store)
    text = "Be fair\0 and \ue000 kind"
    project = studio.create_project(ProjectSettings(name="p", guidelines=text, gold_floor=0.5)).id
    store.database.migrate("0009")
    store.database.migrate()
    assert studio.project(project).settings == ProjectSettings(name="p", guidelines=text)
    with studio.read() as session:
        table = studio_models.GuidelineVersionRow
        assert session.execute(select(table.version, table.text)).all() == [(version_of(text), text)]


def test_figures_of_people_at_work(studio: Studio, clock: Clock) -> None:
    """Agreement with the majority of the others, in time, and answers given faster than anybody reads; counted by hand."""
    fill(studio.store, 14, mark="more ")
    project = studio.create_project(ProjectSettings(name="p", overlap=3, least_seconds=2)).id
    studio.add_tasks(project, studio.store.add_pairs().ids)
    say = sides(studio)
    for name in ("ann", "bea", "cid"):
        who = studio.store.add_annotator(name)
        for number in range(20):
            got = studio.lease(project, who)
            assert got is not None
            clock.forward(1)
            # Ann and Bea always say a. Cid does at first and then never: their answers grow worse.
            choice: Any = say(got, name != "cid" or number < 10)
            seconds = 1 if (name, number) == ("bea", 0) else 3
            studio.submit(got.token, who, Answer(choice=choice, duration_ms=1000 * seconds), key="12345678")
    ann, bea, cid = sorted(at_work.people(studio, project), key=lambda each: each.pseudonym)
    assert (cid.with_others.value, cid.with_others.n) == (0.5, 20)
    assert [each.value for each in cid.blocks] == [1, 1, 0, 0]
    assert cid.drift is not None
    assert (cid.drift.value, cid.drift.direction) == (-1, -1)
    # With each of the others: where Bea and Cid are split, Ann's others have no majority.
    assert (ann.with_others.value, ann.with_others.n) == (1, 10)
    assert (bea.too_fast.value, ann.too_fast.value) == (0.05, 0)
    assert cid.accuracy.value < ann.accuracy.value
    assert at_work.is_too_fast(2900, 300, 0)  # 300 characters in 2.9 s
    assert not at_work.is_too_fast(3000, 300, 0)
    assert not at_work.is_too_fast(0, 300, 9)  # not timed


def test_the_interval_of_a_change_is_newcombes() -> None:
    """Table II of Newcombe (1998), method 10: 56/70 - 48/80 is 0.2000, 0.0524 to 0.3339."""
    from prefloop.feedback.agreement.drift import difference
    from prefloop.feedback.agreement.people import Share

    found = difference(Share.of(48, 80), Share.of(56, 70))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert drift([True] * 9) is None
    assert [each.n for each in blocks([True] * 43)] == [5, 6, 5, 6, 5, 5, 6, 5]
