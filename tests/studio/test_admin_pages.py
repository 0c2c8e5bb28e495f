"""What admins see: the rounds of the loop with their report, one annotator's figures, known answers and anonymised people."""

import re
from typing import Any

import pytest

from prefloop.data.store import Filters, Judgement
from prefloop.studio import admin_views
from prefloop.studio.one_annotator import one_annotator
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, NotFound, ProjectSettings
from tests.studio.web import Person


@pytest.fixture
def boss(studio: Studio) -> Person:
    return Person(studio, "boss", "admin")


def judged(studio: Studio, overlap: int = 1) -> int:
    """A project whose pairs have all their answers."""
    project = studio.create_project(ProjectSettings(name="p", overlap=overlap))
    studio.add_tasks(project.id, studio.store.add_pairs().ids)
    for number in range(overlap):
        who = studio.store.add_annotator(f"a{number}")
        while (got := studio.lease(project.id, who)) is not None:
            studio.submit(
                got.token, who, Answer(choice="first", duration_ms=1000 * (number + 1)), key="12345678"
            )
    return project.id


def test_rounds_are_a_timeline_with_counts_and_the_report(studio: Studio, boss: Person) -> None:
    judged(studio)
    folder = studio.store.folder / "runs" / "reward"
    folder.mkdir(parents=True)
    export = studio.store.export("comparisons", Filters(projects=("p",)))
    run = studio.store.begin_training_run("reward", config={}, exports=[export.id], folder="runs/reward")
    (round,) = admin_views.rounds(studio)
    assert (round.number, round.items, dict(round.judgements)) == (0, 6, {"human": 6})
    assert (round.runs[0].status, round.runs[0].report) == ("running", "")
    assert boss.client.get(f"/admin/reports/{run}").status_code == 404
    studio.store.finish_training_run(
        run, "runs/reward/final", weights_sha256="0" * 64, kind="reward_model", metrics={"accuracy": 0.75}
    )
    (folder.parent / "report.html").write_text("<!doctype html><title>It went well</title>")
    (round,) = admin_views.rounds(studio)
    assert round.runs[0].status == "finished"
    assert round.runs[0].checkpoint == "runs/reward/final"
    page = boss.client.get("/admin").text
    assert re.findall(r'href="(/admin/reports/\d+)"', page) == [f"/admin/reports/{run}"]
    report = boss.client.get(f"/admin/reports/{run}")
    assert "It went well" in report.text
    policy = report.headers["content-security-policy"]
    assert "sandbox" in policy
    assert "script-src" not in policy
    assert "default-src 'none'" in policy
    ann = Person(studio, "ann")
    assert ann.client.get(f"/admin/reports/{run}").status_code == 403


def test_an_annotators_page_has_figures_with_intervals(studio: Studio, boss: Person) -> None:
    items = studio.store.add_pairs().ids
    project = studio.create_project(ProjectSettings(name="p", overlap=2))
    texts = {item.id: item.completions for item in studio.store.items(items)}
    studio.add_tasks(project.id, items, gold=dict.fromkeys(items[:2], "a"))
    answers: Any = (("ann", "a"), ("bea", "b"))
    for name, choice in answers:
        who = studio.store.add_annotator(name)
        for item in items[:2]:  # what chance would ask now and then
            studio.store.add_judgement(Judgement(item=item, annotator=who, choice=choice, order_shown=(0, 1)))
        while (got := studio.lease(project.id, who)) is not None:
            (item,) = (id for id, both in texts.items() if set(both) == set(got.completions))
            first_is_a = got.completions == texts[item]
            place = "first" if first_is_a == (choice == "a") else "second"
            studio.submit(got.token, who, Answer(choice=place, duration_ms=5000), key="12345678")
    ann, bea = (one_annotator(studio, name) for name in ("ann", "bea"))
    assert ann.figures is not None
    assert bea.figures is not None
    assert ann.figures.gold.value == 1.0
    assert bea.figures.gold.value == 0.0
    assert 0 < ann.figures.gold.low < 1
    assert ann.figures.with_others.value == 0.0
    assert ann.figures.seconds == 5.0
    assert (ann.others[0].name, ann.others[0].agreement.value) == ("bea", 0.0)
    assert len(ann.last) == ann.figures.answers
    page = boss.client.get("/admin/annotators/ann").text
    for told in (
        "100\u00a0%",
        "right where the answer is known",
        "chose the reply shown first",
        "5 s",
        "median time",
    ):
        assert told in page
    assert boss.client.get("/admin/annotators/nobody", headers={"accept": "text/html"}).status_code == 404
    assert Person(studio, "cid").client.get("/admin/annotators/ann").status_code == 403
    with pytest.raises(NotFound):
        one_annotator(studio, "nobody")


def test_somebody_who_holds_the_last_item_is_not_told_that_all_is_done(studio: Studio) -> None:
    project = studio.create_project(ProjectSettings(name="p"))
    studio.add_tasks(project.id, studio.store.add_pairs().ids[:1])
    ann, bea = Person(studio, "ann"), Person(studio, "bea")
    ann.next(project.id)
    assert f'href="/label/{project.id}"' in ann.client.get("/").text
    assert f'href="/label/{project.id}"' not in bea.client.get("/").text
