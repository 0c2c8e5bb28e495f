"""People who have done nothing for a long time are deleted; who works, or runs the studio, stays."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from prefloop.cli import people as commands
from prefloop.configs.label import UserRetainConfig
from prefloop.data.store import models, studio_models
from prefloop.errors import InputError
from prefloop.studio import accounts, erasure, members, retention, studies
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, ProjectSettings
from tests.studio.web import PASSWORD


@pytest.fixture
def people(studio: Studio, clock: Any) -> dict[str, int]:
    """An admin, a manager and a participant who do nothing, an annotator who answered at first, and one who answers forty days later."""
    made = {
        name: accounts.add_person(
            studio, name, PASSWORD, "admin" if name == "olga" else "annotator"
        ).annotator
        for name in ("olga", "marc", "ann", "bea")
    }
    settings = ProjectSettings(name="Helpful", access="members", quota=9, overlap=3)
    project = studio.create_project(settings).id
    studio.add_tasks(project, studio.store.add_pairs().ids)
    members.change(studio, project, add=["ann", "bea"], by=None)
    members.set_member(studio, project, "marc", "manager", by=None)
    link = studies.create(studio, project, "prolific", places=5, by=None).path
    guest = studies.arrive(studio, link.partition("?")[0].rpartition("/")[2], "5f0c" + "a" * 20)
    made["guest"] = erasure.annotator_of(studio, guest)
    answer(studio, project, made["ann"], "Rosa told me")
    clock.now += timedelta(days=40)
    answer(studio, project, made["bea"])
    return made


def answer(studio: Studio, project: int, annotator: int, why: str = "") -> None:
    got = studio.lease(project, annotator)
    assert got is not None
    studio.submit(
        got.token, annotator, Answer(choice="first", rationale=why), key=f"key of {annotator} {got.token}"
    )


def left(studio: Studio) -> set[int]:
    with studio.read() as session:
        return set(session.scalars(select(studio_models.AccountRow.annotator_id)))


def test_who_has_done_nothing_goes_and_their_choices_stay(studio: Studio, people: dict[str, int]) -> None:
    assert retention.idle(studio, 41) == []
    found = retention.idle(studio, 39)
    assert {each.annotator for each in found} == {people["ann"], people["guest"]}
    assert left(studio) == set(people.values())  # a list changes nothing
    gone = retention.retain(studio, 39, words=False)
    assert gone == found
    assert left(studio) == {people[name] for name in ("olga", "marc", "bea")}
    with studio.read() as session:
        said = session.scalars(
            select(models.JudgementRow).where(models.JudgementRow.annotator_id == people["ann"])
        ).one()
        assert said.choice in ("a", "b", "first", "second")
        assert session.scalars(select(studio_models.ParticipantRow)).all() == []
    assert "Rosa" in str(_rationales(studio))
    assert retention.retain(studio, 39, words=False) == []


def _rationales(studio: Studio) -> list[str]:
    with studio.read() as session:
        return [row.rationale for row in session.scalars(select(studio_models.JudgementDetailRow))]


def test_what_they_wrote_goes_with_a_proof_where_that_is_asked_for(
    studio: Studio, people: dict[str, int]
) -> None:
    gone = retention.retain(studio, 39, words=True)
    assert "Rosa" not in str(_rationales(studio))
    assert {proof["pseudonym"] for proof in erasure.proofs(studio)} == {each.pseudonym for each in gone}


def test_who_comes_back_stays(
    studio: Studio, people: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = retention.idle(studio, 39)
    answer(studio, 1, people["ann"])
    monkeypatch.setattr(retention, "idle", lambda studio, days: before)
    assert [each.annotator for each in retention.retain(studio, 39, words=False)] == [people["guest"]]


def test_the_command_only_lists_until_it_is_told_to_delete(
    studio: Studio, people: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    """By the real clock everybody has been away for longer than a day."""
    given = {"days": 1, "store": studio.store.label}
    commands.retain(UserRetainConfig(**given))
    assert "3 accounts without activity for more than 1 day would be deleted" in capsys.readouterr().out
    assert len(left(studio)) == len(people)
    commands.retain(UserRetainConfig(**given, yes=True))
    told = capsys.readouterr().out
    assert "3 accounts" in told
    assert "are deleted" in told
    assert "ann" not in told.replace("annotator", "")
    assert left(studio) == {people["olga"], people["marc"]}
    commands.retain(UserRetainConfig(**given, yes=True))
    assert "nobody but admins and managers" in capsys.readouterr().out
    with pytest.raises(InputError, match="days is 0"):
        UserRetainConfig(days=0)
