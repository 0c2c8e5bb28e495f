"""A person is erased: no word of theirs is left in the store or its file, choices stay, and what was fixed says why it is gone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import DatabaseError

from prefloop.cli import people as commands
from prefloop.configs.common import Selecting
from prefloop.configs.label import UserEraseConfig
from prefloop.data.store import Store, studio_models
from prefloop.data.store.values import Conflict
from prefloop.errors import InputError
from prefloop.feedback.datasets import save
from prefloop.records import Message
from prefloop.studio import accounts, erasure
from prefloop.studio.chat_work import ChatWork
from prefloop.studio.questions import Question, QuestionAnswer, Span
from prefloop.studio.responders import Candidate, Show
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, NotFound, ProjectSettings
from tests.studio.test_chat import settled
from tests.studio.web import PASSWORD, Person

SAID = {
    "reason": "because Aunt Rosa said so",
    "rewrite": "a reply that only Rosa would write",
    "comment": "Rosa doubts this part",
    "free": "Rosa would have liked more detail",
    "draft": "Rosa had begun this sentence",
    "message": "my name is Rosa and I live in Elm Street",
    "second": "and my dog is called Bruno",
    "begun": "Rosa was about to ask",
}
QUESTIONS = (
    Question(name="why", kind="text"),
    Question(name="tone", kind="choice", options=("kind", "rude")),
    Question(name="wrong", kind="spans", of="reply", options=("untrue",)),
)


class Model:
    """Answers with the question and the seed."""

    def reply(self, messages: Sequence[Message], *, seed: int, show: Show) -> Candidate:
        return Candidate(
            text=f"You wrote: {messages[-1].content} {seed}",
            policy="model",
            weights_sha256="",
            seed=seed,
            temperature=1.0,
            tokens=5,
            ended=True,
            logprob=-1.0,
        )


def rosa_works(studio: Studio) -> accounts.Who:
    """Rosa answers two items with many words, leaves a draft, and chats; Ben answers the same two."""
    who = accounts.add_person(studio, "rosa", PASSWORD, "annotator")
    ben = accounts.add_person(studio, "ben", PASSWORD, "annotator")
    settings = ProjectSettings(name="Compare", overlap=2, questions=QUESTIONS)
    project = studio.create_project(settings).id
    studio.add_tasks(project, studio.store.add_pairs().ids)
    for number in range(2):
        item = studio.lease(project, who.annotator)
        assert item is not None
        answer = Answer(
            choice="first",
            rationale=SAID["reason"],
            edited=SAID["rewrite"] if number else "",
            edited_from="first" if number else "",
            answers=(
                QuestionAnswer(question="why", value=SAID["free"]),
                QuestionAnswer(question="tone", value="kind"),
            ),
            spans=(Span(question="wrong", place=0, start=0, end=3, label="untrue", comment=SAID["comment"]),),
        )
        studio.submit(item.token, who.annotator, answer, key=f"rosa-{number:08}")
    left = studio.lease(project, who.annotator)
    assert left is not None
    studio.save_draft(left.token, who.annotator, {"choice": "first", "rationale": SAID["draft"]})
    for number in range(2):
        item = studio.lease(project, ben.annotator)
        assert item is not None
        studio.submit(
            item.token, ben.annotator, Answer(choice="second", rationale="fine"), key=f"ben-{number:08}"
        )
    talk_with(studio, who.annotator)
    return who


def talk_with(studio: Studio, annotator: int) -> None:
    chat = studio.create_project(ProjectSettings(name="Talk", kind="chat"))
    work = ChatWork(studio, [Model()])
    token = work.open(chat.id, annotator, new=False).token
    for number, message in enumerate((SAID["message"], SAID["second"])):
        work.say(token, annotator, message, key=f"message-{number}")
        talk = settled(work, token, annotator)
        assert talk.assignment is not None
        studio.submit(talk.assignment.token, annotator, Answer(choice="first"), key=f"chat-{number:08}")
    work.save_draft(token, annotator, SAID["begun"])
    work.close()


def everything(studio: Studio) -> str:
    """All that the database holds, as text."""
    with studio.read() as session:
        tables = studio_models.Base.metadata.sorted_tables
        return "\n".join(
            str(row) for table in tables for row in session.execute(text(f"SELECT * FROM {table.name}"))
        )


def test_no_word_and_no_name_is_left(on_each: Studio) -> None:
    rosa = rosa_works(on_each)
    before = everything(on_each)
    for said in (*SAID.values(), "'rosa'"):
        assert said in before
    proof = erasure.erase(on_each, rosa.annotator, by=None)
    after = everything(on_each)
    for said in (*SAID.values(), "Rosa", "Bruno", "'rosa'"):
        assert said not in after
    assert proof.account
    assert proof.found == {}
    assert proof.searched_words == len(SAID) + 1
    assert proof.erased == {
        "reasons": 2,
        "rewritten replies": 1,
        "comments on marked parts": 2,
        "text answers": 2,
        "drafts": 1,
        "messages of chats": 2,
        "drafts of messages": 1,
        "conversations": 2,
        "replies in them or rewritten": 5,
    }
    assert [person.login for person in accounts.people(on_each)] == ["ben"]


def test_the_file_holds_no_word_either(studio: Studio) -> None:
    rosa = rosa_works(studio)
    assert erasure.erase(studio, rosa.annotator, by=None).file_rewritten
    path = Path(studio.store.label)
    files = [file for file in path.parent.iterdir() if file.name.startswith(path.name)]
    content = b"".join(file.read_bytes() for file in files)
    for said in SAID.values():
        assert said.encode() not in content


def test_choices_stay_and_nobody_elses_word_goes(studio: Studio) -> None:
    rosa = rosa_works(studio)
    first = studio.store.comparisons().records
    proof = erasure.erase(studio, rosa.annotator, by=None)
    kept = studio.store.comparisons().records
    # The rewrite's comparison and the two of the chat go.
    assert (len(first), len(kept), proof.withdrawn) == (7, 4, 3)
    assert sum(record.annotator == proof.pseudonym for record in kept) == 2
    assert proof.kept == 2
    assert "fine" in everything(studio)
    assert "'kind'" in everything(studio) or '"kind"' in everything(studio)  # an option, not a word of theirs


def test_exports_and_runs_that_had_the_words_are_named_and_say_why_they_are_gone(studio: Studio) -> None:
    rosa = rosa_works(studio)
    version, _ = save(studio.store, "helpful", "comparisons", Selecting(), skip_bad=True)
    with studio.write() as session:
        before = session.execute(text("SELECT count(*) FROM judgement")).scalar_one()
    proof = erasure.erase(studio, rosa.annotator, by=None)
    assert proof.exports == (version.export.id,)
    assert proof.datasets == ("helpful@1",)
    with pytest.raises(InputError, match="erased on 2026-01-01 at a person's request"):
        studio.store.exported(version.export.id)
    assert len(studio.store.exported(version.export.id, erased=True)) == 7
    again, new = save(studio.store, "helpful", "comparisons", Selecting(), skip_bad=True)
    assert new
    assert (again.export.rows, again.changes.removed) == (4, 3)
    assert len(studio.store.exported(again.export.id)) == 4
    with studio.read() as session:  # nothing was deleted: three rows withdraw
        assert session.execute(text("SELECT count(*) FROM judgement")).scalar_one() == before + 3


def test_words_that_others_said_too_are_theirs_and_counted(studio: Studio) -> None:
    rosa = rosa_works(studio)
    ben = studio.store.add_annotator("ben-too")
    talk = studio.find_project("Talk")
    work = ChatWork(studio, [Model()])
    token = work.open(talk.id, ben, new=False).token
    work.say(token, ben, SAID["message"], key="message-0")
    settled(work, token, ben)
    work.close()
    proof = erasure.erase(studio, rosa.annotator, by=None)
    assert proof.erased["conversations"] == 1  # the first message is also Ben's
    assert proof.found == {"prompt.content": 1, "chat_turn.message": 1}


def test_afterwards_the_database_refuses_again_and_a_failure_changes_nothing(
    on_each: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    rosa = rosa_works(on_each)
    before = everything(on_each)
    with monkeypatch.context() as patched:
        patched.setattr(erasure, "_search", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            erasure.erase(on_each, rosa.annotator, by=None)
    assert everything(on_each) == before
    for _ in range(2):  # after the failure, and after the erasure
        for statement in (
            update(studio_models.JudgementDetailRow).values(rationale="x"),
            update(studio_models.SpanRow).values(comment="x"),
            update(studio_models.QuestionAnswerRow).values(value="x"),
            text("UPDATE completion SET text = 'x'"),
            text("DELETE FROM span"),
        ):
            with pytest.raises((DatabaseError, InputError), match="refused"):
                _run(on_each, statement)
        erasure.erase(on_each, rosa.annotator, by=None)


def _run(studio: Studio, statement: Any) -> None:
    with studio.write() as session:
        session.execute(statement)


def test_who_may_and_whom(studio: Studio) -> None:
    boss = Person(studio, "boss", "admin")
    rosa = rosa_works(studio)
    assert boss.send("POST", f"/people/{boss.who.account}/erase").status_code == 409
    assert boss.send("POST", "/people/999/erase").status_code == 404
    proof = boss.send("POST", f"/people/{rosa.account}/erase").json()
    assert boss.send("GET", "/erasures").json() == [proof]
    assert proof["pseudonym"] in boss.client.get("/admin/people").text
    events = [event["action"] for event in boss.send("GET", "/audit").json()]
    assert "erase" in events
    ben = Person(studio, "bea", client=boss.client)
    assert ben.send("POST", f"/people/{boss.who.account}/erase").status_code == 403
    with pytest.raises(NotFound):
        erasure.find_person(studio, "nobody")
    with pytest.raises(Conflict):
        erasure.erase(studio, boss.who.annotator, by=None)


def test_the_command_asks_and_writes_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "s.db")
    with Store.open(file) as store:
        accounts.add_person(Studio(store), "rosa", PASSWORD, "annotator")
    with pytest.raises(InputError, match="nothing was erased: add --yes true"):
        commands.erase(UserEraseConfig(login="rosa", store=file))
    out = tmp_path / "proof.json"
    commands.erase(UserEraseConfig(login="rosa", store=file, out=str(out), yes=True))
    proof = json.loads(out.read_text())
    assert (proof["account"], proof["found"], proof["erased"]) == (True, {}, {})
    assert "rosa" not in out.read_text()
    # Again, by the pseudonym: nothing is left to erase.
    commands.erase(UserEraseConfig(login=proof["pseudonym"], store=file, yes=True))
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.index("{") :])["account"] is False
