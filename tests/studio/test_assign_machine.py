"""Annotators, leases, clocks and crashes in any order that hypothesis can think of, on both databases.

At every moment: submitted answers and running leases of an item never exceed the overlap, and the counter that the database checks is their
number. Every acknowledged answer is there exactly once, as it was given, and nothing else is.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import func, select

from prefloop.data.store import Store, models, studio_models
from prefloop.data.store.values import Conflict
from prefloop.studio import assign
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, ProjectSettings
from tests.studio.counted import counted
from tests.studio.made import fill

LEASE = 100
PEOPLE = 4
_marks = count()

Task, Assignment = studio_models.TaskRow, studio_models.AssignmentRow


class Crash(Exception):
    """The process dies before its transaction is committed."""


class Annotators(RuleBasedStateMachine):
    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.studio = Studio(self.store, clock=lambda: self.now, random=Random(0))
        self.said: dict[str, tuple[int, Answer, str]] = {}
        """Token -> who, what, key: acknowledged and not taken back."""
        self.skipped: set[str] = set()
        self.held: dict[str, int] = {}
        """Token -> whose page it is on, leased or not any more."""

    @initialize(overlap=st.integers(1, 3), items=st.integers(1, 3), gold=st.booleans())
    def begin(self, overlap: int, items: int, gold: bool) -> None:
        mark = f"{next(_marks)} "
        fill(self.store, items + gold, mark=mark)
        self.people = [self.store.add_annotator(f"{mark}{number}") for number in range(PEOPLE)]
        self.project = self.studio.create_project(
            ProjectSettings(name=mark, overlap=overlap, lease_seconds=LEASE, gold_share=0.5 if gold else 0.0)
        ).id
        with self.store.database.read() as session:
            prompts = list(
                session.scalars(
                    select(models.PromptRow.id).order_by(models.PromptRow.id.desc()).limit(items + gold)
                )
            )
        pairs = self.store.add_pairs(prompts=prompts).ids
        self.studio.add_tasks(self.project, pairs, gold={pairs[0]: "a"} if gold else {})

    def _of(self, tokens: Collection[str]) -> list[str]:
        """In the order they were given out: tokens are drawn at random, so sorted they would stand differently each time."""
        return [token for token in self.held if token in tokens]

    @rule(who=st.integers(0, PEOPLE - 1), keep=st.booleans())
    def lease(self, who: int, keep: bool) -> None:
        have = [token for token, owner in self.held.items() if owner == self.people[who]] if keep else []
        got = self.studio.lease(self.project, self.people[who], have=have)
        if got is not None:
            assert self.held.setdefault(got.token, self.people[who]) == self.people[who]
            assert got.token not in self.said
            assert got.token not in self.skipped
            assert sorted(got.completions) != []

    @rule(seconds=st.sampled_from([1, LEASE // 2, LEASE + 1]))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def sweep(self) -> None:
        self.studio.expire()

    @precondition(lambda self: self.held)
    @rule(data=st.data(), choice=st.sampled_from(["first", "second", "tie", "both_bad"]), crash=st.booleans())
    def submit(self, data: st.DataObject, choice: Any, crash: bool) -> None:
        token = data.draw(st.sampled_from(list(self.held)))
        who = self.held[token]
        answer = Answer(choice=choice, rationale=f"because {token}")
        key = uuid4().hex
        if crash:
            with pytest.raises((Crash, Conflict)):
                self._submit_and_crash(token, answer, key)
        if token in self.said or token in self.skipped:
            with pytest.raises(Conflict):
                self.studio.submit(token, who, answer, key=key)
            return
        receipt = self.studio.submit(token, who, answer, key=key)
        assert receipt.state in ("submitted", "surplus")
        self.said[token] = (who, answer, key)

    def _submit_and_crash(self, token: str, answer: Answer, key: str) -> None:
        with self.studio.write() as session:
            assign.submit(session, token, self.held[token], answer, key=key, now=self.now)
            raise Crash

    @precondition(lambda self: self.said)
    @rule(data=st.data(), other=st.booleans())
    def send_again(self, data: st.DataObject, other: bool) -> None:
        token = data.draw(st.sampled_from(self._of(self.said)))
        who, answer, key = self.said[token]
        if other:
            with pytest.raises(Conflict):
                self.studio.submit(token, who, Answer(choice="tie", rationale="something else"), key=key)
        else:
            assert self.studio.submit(token, who, answer, key=key).state in ("submitted", "surplus")

    @precondition(lambda self: set(self.held) - set(self.said) - self.skipped)
    @rule(data=st.data())
    def skip(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(self._of(set(self.held) - set(self.said) - self.skipped)))
        self.studio.skip(token, self.held[token], key=uuid4().hex)
        self.skipped.add(token)

    @precondition(lambda self: self.said or self.skipped)
    @rule(data=st.data(), twice=st.booleans())
    def undo(self, data: st.DataObject, twice: bool) -> None:
        token = data.draw(st.sampled_from(self._of({*self.said, *self.skipped})))
        who = self.held[token]
        for _ in range(1 + twice):
            assert self.studio.undo(token, who).token == token
        self.said.pop(token, None)
        self.skipped.discard(token)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(list(self.held)))
        self.studio.give_back(token, self.held[token])

    @precondition(lambda self: hasattr(self, "project"))
    @rule(overlap=st.integers(1, 3))
    def change_overlap(self, overlap: int) -> None:
        settings = self.studio.project(self.project).settings
        self.studio.change_project(self.project, replace(settings, overlap=overlap))

    @invariant()
    def never_more_than_the_overlap(self) -> None:
        if not hasattr(self, "project"):
            return
        with self.store.database.read() as session:
            rows = session.execute(
                select(Task.taken, Task.overlap, Task.open, func.count(Assignment.id))
                .outerjoin(
                    Assignment,
                    (Assignment.task_id == Task.id) & Assignment.state.in_(("leased", "submitted")),
                )
                .where(Task.project_id == self.project)
                .group_by(Task.id)
            ).all()
        for taken, overlap, is_open, running in rows:
            assert taken == running <= overlap
            assert is_open == (taken < overlap)

    @invariant()
    def sums_are_what_is_there(self) -> None:
        if hasattr(self, "project"):
            assert self.studio.progress([self.project]) == {self.project: counted(self.store, self.project)}

    @invariant()
    def every_acknowledged_answer_is_there_once(self) -> None:
        if not hasattr(self, "project"):
            return
        judgement, detail = models.JudgementRow, studio_models.JudgementDetailRow
        superseded = select(judgement.supersedes_id).where(judgement.supersedes_id.is_not(None))
        with self.store.database.read() as session:
            rows = session.execute(
                select(
                    Assignment.token,
                    Assignment.state,
                    Assignment.order_shown,
                    Assignment.annotator_id,
                    judgement.choice,
                    judgement.annotator_id.label("judged_by"),
                    detail.rationale,
                )
                .join(Task, Task.id == Assignment.task_id)
                .join(judgement, judgement.id == Assignment.judgement_id)
                .join(detail, detail.judgement_id == judgement.id)
                .where(Task.project_id == self.project, judgement.id.not_in(superseded))
            ).all()
            current = session.scalar(
                select(func.count())
                .select_from(judgement)
                .where(
                    judgement.annotator_id.in_(self.people),
                    judgement.id.not_in(superseded),
                    judgement.choice != "withdrawn",
                )
            )
        assert current == len(rows) == len(self.said) + len(self.skipped)
        for row in rows:
            if row.token in self.skipped:
                assert (row.choice, row.state) == ("skip", "skipped")
                continue
            who, answer, _ = self.said[row.token]
            assert row.state in ("submitted", "surplus")
            assert row.judged_by == row.annotator_id == who
            assert row.rationale == answer.rationale
            first, second = ("ab"[slot] for slot in row.order_shown)
            assert row.choice == {"first": first, "second": second}.get(answer.choice, answer.choice)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_nothing_is_lost_and_nothing_is_asked_too_often(kind: str, new_url: Callable[[str], str]) -> None:
    with Store.open(new_url(kind)) as store:

        class Machine(Annotators):
            pass

        Machine.store = store
        run_state_machine_as_test(
            Machine, settings=settings(max_examples=15, stateful_step_count=25, deadline=None)
        )
