"""Live chat: two answers a turn, the better one goes on, every turn becomes a comparison; slow, failing and dying models."""

import json
import threading
import time
from collections.abc import Callable, MutableSequence, Sequence
from datetime import timedelta
from itertools import count
from random import Random
from typing import Any

import pytest
from sqlalchemy import select

from prefloop.configs.label import ChatAnswers, ServeConfig
from prefloop.data.store import models, studio_models
from prefloop.data.store.values import Conflict
from prefloop.errors import InputError
from prefloop.records import Message
from prefloop.studio import chats
from prefloop.studio.chat_work import ChatWork
from prefloop.studio.responders import (
    Candidate,
    EndpointResponder,
    NoAnswer,
    Served,
    Show,
    two_answers,
)
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, NotFound, ProjectSettings, Talk
from tests.feedback.judges.server import answer, serving
from tests.studio.conftest import Clock
from tests.studio.web import Person, client_of


class Model:
    """Answers with its name, the seed and what it was asked."""

    def __init__(self, name: str = "secret-policy-7b", say: Callable[[str, int], str] | None = None) -> None:
        self.name, self.seen = name, list[tuple[Message, ...]]()
        self.say = say or (lambda asked, seed: f"{asked}? {seed}")

    def reply(self, messages: Sequence[Message], *, seed: int, show: Show) -> Candidate:
        self.seen.append(tuple(messages))
        text = self.say(messages[-1].content, seed)
        show(text)
        return Candidate(
            text=text,
            policy=self.name,
            weights_sha256="",
            seed=seed,
            temperature=0.9,
            tokens=7,
            ended=True,
            logprob=-3.0,
        )


@pytest.fixture
def studio(on_each: Studio) -> Studio:
    return on_each


@pytest.fixture
def project(studio: Studio) -> int:
    return studio.create_project(ProjectSettings(name="talk", kind="chat", lease_seconds=60)).id


@pytest.fixture
def ann(studio: Studio) -> int:
    return studio.store.add_annotator("ann")


def settled(work: ChatWork, token: str, who: int) -> Talk:
    """The conversation when nobody is writing."""
    for _ in range(500):
        talk = work.look(token, who)
        if not talk.waiting:
            return talk
        time.sleep(0.01)
    raise AssertionError("the answers never came")


def turn(work: ChatWork, token: str, who: int, message: str) -> Talk:
    work.say(token, who, message, key=f"key of {message}")
    return settled(work, token, who)


def test_the_better_answer_goes_on_the_conversation_and_every_turn_is_a_comparison(
    studio: Studio, project: int, ann: int
) -> None:
    model = Model()
    work = ChatWork(studio, [model])
    token = work.open(project, ann, new=False).token
    said: list[str] = []
    for number, choice in enumerate(("second", "first", "tie")):
        talk = turn(work, token, ann, f"message {number}")
        assert talk.assignment is not None
        assert len(set(talk.assignment.completions)) == 2
        assert talk.assignment.prompt.content == talk.messages
        said.append(talk.assignment.completions[1 if choice == "second" else 0])
        strength = 0 if choice == "tie" else 2
        answer = Answer(choice=choice, strength=strength)  # type: ignore[arg-type]
        studio.submit(talk.assignment.token, ann, answer, key="12345678")
    messages = work.look(token, ann).messages
    assert [each.content for each in messages] == [
        each for number in range(3) for each in (f"message {number}", said[number])
    ]
    assert [each.role for each in messages] == ["user", "assistant"] * 3
    # The models saw the same, and the comparisons have it as their prompt.
    assert model.seen[-1] == messages[:5]
    first, second = studio.store.comparisons().records
    assert (first.chosen, second.chosen) == tuple(said[:2])
    assert second.prompt.content == messages[:3]
    assert studio.store.comparisons().left_out == {"tie": 1}
    progress = studio.progress([project])[project]
    assert (progress.submitted, progress.wanted, progress.leased) == (3, 3, 0)


def test_both_models_and_seeds_are_recorded_and_the_order_is_drawn(
    studio: Studio, project: int, ann: int
) -> None:
    work = ChatWork(studio, [Model("one"), Model("two")])
    orders = set()
    for number in range(6):
        token = work.open(project, ann, new=True).token
        talk = turn(work, token, ann, f"hello {number}")
        assert talk.assignment is not None
        studio.submit(talk.assignment.token, ann, Answer(choice="first"), key="12345678")
    rows = studio.store.completions()
    drawn = [row for row in rows if row.policy in ("one", "two")]
    pairs = [{row.policy for row in drawn[at : at + 2]} for at in range(0, len(drawn), 2)]
    assert pairs == [{"one", "two"}] * 6
    assert len({row.seed for row in drawn}) == 12
    assert {(row.temperature, row.tokens, row.logprob) for row in drawn} == {(0.9, 7, -3.0)}
    with studio.read() as session:
        orders = {tuple(order) for order in session.scalars(select(studio_models.AssignmentRow.order_shown))}
        assert set(session.scalars(select(models.ItemRow.strategy))) == {chats.STRATEGY}
    assert orders == {(0, 1), (1, 0)}


@pytest.mark.parametrize("how", ["both_bad", "skip"])
def test_what_led_nowhere_is_no_part_of_the_conversation(
    studio: Studio, project: int, ann: int, how: str
) -> None:
    model = Model()
    work = ChatWork(studio, [model])
    token = work.open(project, ann, new=False).token
    talk = turn(work, token, ann, "hello")
    assert talk.assignment is not None
    if how == "skip":
        studio.skip(talk.assignment.token, ann, key="12345678")
    else:
        studio.submit(talk.assignment.token, ann, Answer(choice="both_bad"), key="12345678")
    talk = work.look(token, ann)
    assert (talk.messages, talk.again, talk.assignment) == ((), "hello", None)
    turn(work, token, ann, "hello again")
    assert [each.content for each in model.seen[-1]] == ["hello again"]


def test_a_rewritten_answer_goes_on_the_conversation(studio: Studio, project: int, ann: int) -> None:
    work = ChatWork(studio, [Model()])
    token = work.open(project, ann, new=False).token
    talk = turn(work, token, ann, "hello")
    assert talk.assignment is not None
    studio.submit(talk.assignment.token, ann, Answer(choice="first", edited="Good day."), key="12345678")
    assert work.look(token, ann).messages[-1] == Message(role="assistant", content="Good day.")
    assert {each.chosen for each in studio.store.comparisons().records} >= {"Good day."}


def test_undo_is_for_the_last_turn_only(studio: Studio, project: int, ann: int) -> None:
    work = ChatWork(studio, [Model()])
    token = work.open(project, ann, new=False).token
    tokens = []
    for message in ("one", "two"):
        talk = turn(work, token, ann, message)
        assert talk.assignment is not None
        tokens.append(talk.assignment.token)
        studio.submit(tokens[-1], ann, Answer(choice="first"), key="12345678")
    with pytest.raises(Conflict, match="has continued"):
        studio.undo(tokens[0], ann)
    studio.undo(tokens[1], ann)
    talk = work.look(token, ann)
    assert talk.assignment is not None
    assert [each.content for each in talk.messages][-1] == "two"
    assert not any(past.can_undo for past in studio.history(ann))


def test_one_thing_at_a_time_and_sent_again_it_is_said_once(studio: Studio, project: int, ann: int) -> None:
    work = ChatWork(studio, [Model()])
    token = work.open(project, ann, new=False).token
    assert work.open(project, ann, new=False).token == token
    assert work.open(project, ann, new=True).token == token  # nothing was said in it
    turn(work, token, ann, "hello")
    again = work.say(token, ann, "hello", key="key of hello")
    assert len(again.messages) == 1
    with pytest.raises(Conflict, match="another message"):
        work.say(token, ann, "other", key="key of hello")
    with pytest.raises(Conflict, match="or for your judgement"):
        work.say(token, ann, "other", key="another key")
    new = work.open(project, ann, new=True)
    assert new.token != token
    with pytest.raises(Conflict, match="ended"):
        work.say(token, ann, "more", key="a third key")
    with pytest.raises(InputError, match="empty"):
        work.say(new.token, ann, " ", key="a fourth key")
    bea = studio.store.add_annotator("bea")
    with pytest.raises(NotFound):
        work.look(token, bea)
    work.save_draft(new.token, ann, "I beg")
    assert work.open(project, ann, new=False).draft == "I beg"


def test_an_unanswered_pair_is_nobody_elses_and_waits(
    studio: Studio, project: int, ann: int, clock: Clock
) -> None:
    work = ChatWork(studio, [Model()])
    token = work.open(project, ann, new=False).token
    talk = turn(work, token, ann, "hello")
    assert talk.assignment is not None
    clock.forward(3600)
    assert studio.expire() == 1
    bea = studio.store.add_annotator("bea")
    assert studio.lease(project, bea) is None
    again = work.look(token, ann).assignment
    assert again is not None
    assert again.completions == talk.assignment.completions
    assert studio.submit(again.token, ann, Answer(choice="first"), key="12345678").state == "submitted"


def test_a_model_that_says_the_same_or_nothing_gives_no_pair(studio: Studio, project: int, ann: int) -> None:
    for say, problem in ((lambda *_: "same", "said the same"), (lambda *_: " ", "an empty answer")):
        model = Model(say=say)
        work = ChatWork(studio, [model])
        talk = turn(work, work.open(project, ann, new=False).token, ann, f"hello {problem}")
        assert problem in talk.problem
        assert talk.again == f"hello {problem}"
        assert len(model.seen) == 6
    assert studio.store.counts()["judgement"] == 0


def test_a_slow_model_holds_up_nobody(studio: Studio, project: int, ann: int) -> None:
    release = threading.Event()

    def slowly(asked: str, seed: int) -> str:
        if asked == "slow":
            assert release.wait(60)
        return f"{asked} {seed}"

    work = ChatWork(studio, [Model(say=slowly)])
    app = client_of(studio, chat=work)
    slow, other = (
        Person(studio, "slow", client=app),
        Person(studio, "quick", client=client_of(studio, chat=work)),
    )
    token = slow.send("POST", "/chats", {"project": project}).json()["token"]
    began = time.monotonic()
    waiting = slow.send("POST", f"/chats/{token}/messages", {"message": "slow"}, Idempotency_Key="12345678")
    assert waiting.json()["waiting"] is True
    mine = other.send("POST", "/chats", {"project": project}).json()["token"]
    other.send("POST", f"/chats/{mine}/messages", {"message": "hi"}, Idempotency_Key="12345678")
    assert settled(work, mine, other.who.annotator).assignment is not None
    assert time.monotonic() - began < 30
    assert slow.send("GET", f"/chats/{token}").json()["waiting"] is True
    release.set()
    assert settled(work, token, slow.who.annotator).assignment is not None


def test_a_turn_whose_process_died_is_taken_up_again_once(
    studio: Studio, project: int, ann: int, clock: Clock
) -> None:
    dead = ChatWork(studio, [Model()], patience=60)
    token = dead.open(project, ann, new=False).token
    with studio.write() as session:
        turn = chats.say(
            session,
            token,
            ann,
            "hello",
            key="12345678",
            now=clock(),
            patience=timedelta(seconds=60),
        )
    assert turn is not None
    model = Model()
    alive = ChatWork(studio, [model], patience=60)
    assert alive.look(token, ann).waiting
    assert model.seen == []
    clock.forward(61)
    assert settled(alive, token, ann).assignment is not None
    assert len(model.seen) == 2
    # The dead one was only slow: what it brings is too late, and changes nothing.
    before = studio.store.counts()
    candidates = two_answers([Model("late")], [Message(role="user", content="hello")])
    with studio.write() as session:
        chats.answered(session, turn, candidates, order=(0, 1), now=clock())
        chats.failed(session, turn, "too late")
    assert studio.store.counts() == before


def test_the_page_and_the_api_of_a_chat_are_blind(studio: Studio, project: int) -> None:
    def broken(asked: str, seed: int) -> str:
        if asked == "fail":
            raise RuntimeError("secret-policy-7b is out of memory")
        return f"{asked} {seed}" if asked != "refuse" else _refuse()

    def _refuse() -> str:
        raise NoAnswer("the model does not answer; send it again in a moment") from RuntimeError(
            "secret-policy-7b"
        )

    work = ChatWork(studio, [Model(say=broken)])
    person = Person(studio, "ann", client=client_of(studio, chat=work))
    token = person.send("POST", "/chats", {"project": project}).json()["token"]
    told = [person.client.get(f"/label/{project}").text]
    for message in ("fail", "refuse", "hello"):
        person.send(
            "POST", f"/chats/{token}/messages", {"message": message}, Idempotency_Key=f"key-of-{message}"
        )
        settled(work, token, person.who.annotator)
        told.append(person.send("GET", f"/chats/{token}").text)
    assert "something went wrong" in told[1]
    assert json.loads(told[3])["assignment"]
    for text in told:
        for secret in ("secret-policy", "temperature", "0.9", "seed", "slot", "order_shown"):
            assert secret not in text, secret


def test_without_a_model_the_server_says_how_to_get_one(studio: Studio, project: int) -> None:
    answer = Person(studio).send("POST", "/chats", {"project": project})
    assert answer.status_code == 409
    assert "--chat MODEL" in answer.json()["detail"]


def test_items_do_not_go_into_a_chat(studio: Studio, project: int) -> None:
    with pytest.raises(InputError, match="is a chat"):
        studio.add_tasks(project, studio.store.add_pairs().ids)


# Answers that grow


class Typist:
    """Types a word each time it is let; the words name the seed."""

    def __init__(self, words: int = 5) -> None:
        self.words = words
        self.turns = [threading.Semaphore(0) for _ in range(2)]
        self.typed = [threading.Semaphore(0) for _ in range(2)]
        self._numbers = count()

    def type(self, words: int) -> None:
        """Let both answers grow by so many words, and wait until they have."""
        for _ in range(words):
            for turn in self.turns:
                turn.release()
            for typed in self.typed:
                assert typed.acquire(timeout=20)

    def reply(self, messages: Sequence[Message], *, seed: int, show: Show) -> Candidate:
        mine = next(self._numbers)
        text, on, number = "", True, 0
        while on and number < self.words:
            assert self.turns[mine].acquire(timeout=20)
            text = f"{text} word{number}-{seed}".strip()
            number += 1
            on = show(text)
            self.typed[mine].release()
        return Candidate(
            text=text,
            policy="typist",
            weights_sha256="",
            seed=seed,
            temperature=0.9,
            tokens=number,
            ended=number == self.words,
            logprob=-1.0,
        )


class Backwards(Random):
    """Draws the other order."""

    def shuffle(self, x: MutableSequence[Any]) -> None:
        x.reverse()


@pytest.fixture
def typing(
    studio: Studio, project: int, ann: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[ChatWork, Typist, str]:
    """A conversation whose first message is being answered, word by word, with the second answer shown first."""
    monkeypatch.setattr("prefloop.studio.chat_work.SHOWN_EVERY", 0.0)
    monkeypatch.setattr(studio, "random", Backwards())
    model = Typist()
    work = ChatWork(studio, [model])
    token = work.open(project, ann, new=False).token
    work.say(token, ann, "hello", key="message-1")
    return work, model, token


def test_answers_are_seen_to_grow_in_the_order_they_are_then_shown(
    typing: tuple[ChatWork, Typist, str], ann: int
) -> None:
    work, model, token = typing
    model.type(1)
    early = work.look(token, ann)
    assert early.waiting
    assert all(text.startswith("word0-") for text in early.partial)
    model.type(1)
    later = work.look(token, ann)
    assert [text.split()[0] for text in later.partial] == list(early.partial)
    model.type(3)
    whole = settled(work, token, ann)
    assert whole.partial == ()
    assert whole.assignment is not None
    assert [text.split()[0] for text in whole.assignment.completions] == list(early.partial)
    assert {len(text.split()) for text in whole.assignment.completions} == {5}


def test_stopping_takes_the_answers_as_they_are(
    typing: tuple[ChatWork, Typist, str], ann: int, studio: Studio
) -> None:
    work, model, token = typing
    model.type(2)
    with pytest.raises(NotFound):
        work.stop(token, studio.store.add_annotator("ben"))
    assert work.stop(token, ann).waiting
    model.type(1)  # the next word is the last
    stopped = settled(work, token, ann)
    assert stopped.assignment is not None
    assert all(2 <= len(text.split()) <= 3 for text in stopped.assignment.completions)
    with studio.read() as session:
        rows = session.execute(
            select(models.CompletionRow.ended, models.CompletionRow.tokens).where(
                models.CompletionRow.text.startswith("word0-")
            )
        ).all()
    assert [ended for ended, _ in rows] == [False, False]
    assert work.stop(token, ann).assignment is not None  # nothing is being written: nothing happens


def test_stopping_before_there_are_two_answers_is_told(
    studio: Studio, project: int, ann: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefloop.studio.chat_work.SHOWN_EVERY", 0.0)
    started, held = threading.Event(), threading.Event()

    class Mute(Model):
        def reply(self, messages: Sequence[Message], *, seed: int, show: Show) -> Candidate:
            started.set()
            assert held.wait(20)
            show("same")
            return super().reply(messages, seed=seed, show=show)

    work = ChatWork(studio, [Mute(say=lambda asked, seed: "same")])
    token = work.open(project, ann, new=False).token
    work.say(token, ann, "hello", key="message-1")
    assert started.wait(20)
    work.stop(token, ann)
    held.set()
    told = settled(work, token, ann)
    assert "stopped before there were two different ones" in told.problem
    assert told.again == "hello"


# Models behind an address


def events(*pieces: str, end: str = "stop", done: bool = True) -> tuple[int, bytes, dict[str, str]]:
    """A stream of chunks, as servers send it."""
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {"role": "assistant"}}]}]
    chunks += [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    if end:
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": end}]})
        chunks.append({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
    lines = [": a comment", *(f"data: {json.dumps(chunk)}\n" for chunk in chunks)]
    content = "\n".join([*lines, *(["data: [DONE]\n"] if done else [])]) + "\n"
    return 200, content.encode(), {"content-type": "text/event-stream", "content-length": str(len(content))}


@pytest.mark.parametrize(
    ("stream", "text", "ended", "tokens"),
    [
        (events("Good ", "day", "."), "Good day.", True, 3),
        (events("Good ", "day", end="length"), "Good day", False, 3),
        (events("Good", done=False), "Good", True, 3),
        (answer("whole"), "whole", True, 2),  # a server that does not stream
    ],
)
def test_a_stream_is_read_and_shown_as_it_grows(stream: Any, text: str, ended: bool, tokens: int) -> None:
    seen = list[str]()
    with serving() as server:
        server.judge = lambda request: stream
        responder = EndpointResponder(Served(base_url=server.url, model="m", policy="m"), ChatAnswers())
        reply = responder.reply(
            [Message(role="user", content="hello")], seed=1, show=lambda so_far: seen.append(so_far) is None
        )
    assert (reply.text, reply.ended, reply.tokens) == (text, ended, tokens)
    assert seen[0] == ""
    assert text == "whole" or seen[-1] == text
    assert server.requests[0]["stream"] is True


def test_a_stream_that_breaks_off_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefloop.feedback.judges.endpoint.wait_before", lambda *_, **__: 0.0)
    seen = list[str]()
    with serving() as server:
        server.faults = [events("Go", end="", done=False)]
        server.judge = lambda request: events("Good ", "day.")
        responder = EndpointResponder(Served(base_url=server.url, model="m", policy="m"), ChatAnswers())
        reply = responder.reply(
            [Message(role="user", content="hello")], seed=1, show=lambda so_far: seen.append(so_far) is None
        )
    assert reply.text == "Good day."
    assert len(server.requests) == 2
    assert seen.index("Go") < seen.index("Good day.")
    assert seen.count("") >= 2


def test_an_address_is_asked_for_two_answers_with_their_own_seeds() -> None:
    with serving() as server:
        server.judge = lambda request: answer(f"reply {request['seed']}")
        served = Served(base_url=f"{server.url}", model="m", policy="m")
        a, b = two_answers(
            [EndpointResponder(served, ChatAnswers(temperature=0.5, max_new_tokens=9))],
            [Message(role="user", content="hello")],
        )
    assert {a.text, b.text} == {f"reply {a.seed}", f"reply {b.seed}"}
    assert a.seed != b.seed
    for request in server.requests:
        assert (request["temperature"], request["max_tokens"]) == (0.5, 9)
        assert request["messages"] == [{"role": "user", "content": "hello"}]
        assert "logprobs" not in request


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ((400, b'{"error": {"code": "context_length_exceeded"}}', {}), "too long for the model"),
        ((401, b"no such key", {}), "refuses to answer"),
        ((500, b"broken", {}), "does not answer"),
    ],
)
def test_what_goes_wrong_at_an_address_is_told_without_its_name(fault: Any, told: str) -> None:
    with serving() as server:
        server.judge = lambda request: fault
        served = Served(base_url=server.url, model="secret-policy-7b", policy="m")
        responder = EndpointResponder(served, ChatAnswers(attempts=1))
        with pytest.raises(NoAnswer, match=told) as raised:
            two_answers([responder], [Message(role="user", content="hello")])
    assert "secret-policy" not in str(raised.value)
    assert server.url not in str(raised.value)


@pytest.mark.parametrize(
    ("chat", "told"),
    [
        (("http://127.0.0.1:1/v1",), "without a model"),
        (tuple("abcdefghijklmnopqrstu"), "20 are the most"),
        (("",), "empty model"),
    ],
)
def test_settings_of_chat_are_checked(chat: tuple[str, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ServeConfig(chat=chat)
