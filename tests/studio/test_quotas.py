"""Quotas: how many answers a person may give in a project, in a day and in all."""

from typing import Any

import pytest

from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, ProjectSettings
from tests.studio.conftest import Clock
from tests.studio.web import Person


def project(studio: Studio, **quotas: Any) -> int:
    made = studio.create_project(ProjectSettings(name="p", overlap=3, **quotas)).id
    studio.add_tasks(made, studio.store.add_pairs().ids)
    return made


def asked(person: Person, project: int, *have: str) -> tuple[str, int, str]:
    """Token of the next item, empty for none; how many are left, and why there is none."""
    said = person.send("POST", "/assignments/next", {"project": project, "have": list(have)}).json()
    return (said["assignment"] or {"token": ""})["token"], said["left"], said["why"]


def test_a_day_ends_at_its_quota_and_goes_on_at_midnight(studio: Studio, clock: Clock) -> None:
    asks, ann, bea = project(studio, daily_quota=2), Person(studio), Person(studio, "bea")
    first, left, why = asked(ann, asks)
    assert (left, why) == (2, "")
    second, *_ = asked(ann, asks, first)
    assert second
    assert asked(ann, asks, first, second)[0] == ""  # no lease beyond the quota
    ann.submit(first, {"choice": "first"})
    skip = ann.send("POST", f"/assignments/{second}/skip", {}, Idempotency_Key="12345678")
    assert skip.status_code == 200
    third, left, _ = asked(ann, asks)  # a skip is no answer
    assert (bool(third), left) == (True, 1)
    ann.submit(third, {"choice": "first"})
    token, left, why = asked(ann, asks)
    assert (token, left, why) == (
        "",
        0,
        "You have given today's 2 answers here. You can continue at midnight UTC.",
    )
    assert why.replace("'", "&#39;") in ann.client.get("/").text
    assert asked(bea, asks)[1] == 2
    clock.forward(86399)
    assert asked(ann, asks)[0] == ""
    clock.forward(1)
    assert asked(ann, asks)[1] == 2


def test_a_quota_in_all_holds_over_days_and_undo_gives_a_place_back(studio: Studio, clock: Clock) -> None:
    asks, ann = project(studio, quota=3, daily_quota=2), Person(studio)
    tokens = []
    for _ in range(2):
        tokens.append(asked(ann, asks)[0])
        ann.submit(tokens[-1], {"choice": "first"})
    clock.forward(86400)
    tokens.append(asked(ann, asks)[0])
    ann.submit(tokens[-1], {"choice": "first"})
    assert asked(ann, asks) == (
        "",
        0,
        "You have given all 3 answers that this project asks of you. Thank you.",
    )
    ann.send("POST", f"/assignments/{tokens[-1]}/undo")
    again, left, why = asked(ann, asks)
    assert (again, left, why) == (tokens[-1], 1, "")


def test_what_is_held_can_be_answered_when_the_quota_is_lowered(studio: Studio) -> None:
    asks, ann = project(studio), Person(studio)
    first, *_ = asked(ann, asks)
    second, *_ = asked(ann, asks, first)
    studio.change_project(asks, ProjectSettings(name="p", overlap=3, quota=1))
    assert ann.submit(first, {"choice": "first"}).status_code == 200
    assert ann.submit(second, {"choice": "first"}).status_code == 200
    assert asked(ann, asks)[0] == ""


def test_on_each_database_a_quota_is_kept_and_no_number_below_zero(on_each: Studio) -> None:
    asks, ann = project(on_each, daily_quota=1), on_each.store.add_annotator("ann")
    got = on_each.lease(asks, ann)
    assert got is not None
    on_each.submit(got.token, ann, Answer(choice="tie"), key="12345678")
    assert on_each.lease(asks, ann) is None
    with pytest.raises(InputError, match="daily_quota is -1"):
        ProjectSettings(name="p", daily_quota=-1)


def test_projects_of_an_older_store_have_no_quota(store: Store) -> None:
    studio = Studio(store)
    before = studio.create_project(ProjectSettings(name="p", quota=5))
    store.database.migrate("0008")
    store.database.migrate()
    assert studio.project(before.id).settings == ProjectSettings(name="p")
