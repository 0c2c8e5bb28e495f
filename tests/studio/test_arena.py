"""The arena: several models, two of them drawn for each message, names after the vote, and a leaderboard by category."""

from collections.abc import Sequence
from typing import Any

import pytest

from prefloop.configs.label import ServeConfig
from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.records import Message, Prompt
from prefloop.studio.arena import CATEGORIES, board_of
from prefloop.studio.chat_work import ChatWork
from prefloop.studio.responders import Candidate, Show, two_answers
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings
from tests.studio.live import new_page, served, sign_in, why_no_browser
from tests.studio.web import Person, client_of


class Named:
    """A `Responder` of its own name and words."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.times = 0

    def reply(self, messages: Sequence[Message], *, seed: int, show: Show) -> Candidate:
        """Its words, and how often it was asked."""
        self.times += 1
        return Candidate(
            text=f"words of {ord(self.name[-1])} {self.times}",
            policy=self.name,
            weights_sha256="",
            seed=seed,
            temperature=1.0,
            tokens=3,
            ended=True,
            logprob=0.0,
        )


def models() -> list[Named]:
    return [Named(f"model-{letter}") for letter in "abc"]


def talk(person: Person, project: int, message: str, key: str) -> Any:
    """The two answers to a message."""
    chat = person.send("POST", "/chats", {"project": project}).json()
    path = f"/chats/{chat['token']}"
    person.send("POST", f"{path}/messages", {"message": message}, Idempotency_Key=key)
    while (now := person.send("GET", path).json())["waiting"]:
        pass
    assert now["problem"] == ""
    return now["assignment"]


def test_two_of_several_models_are_drawn_each_time() -> None:
    served_models = models()
    pairs = set()
    for _ in range(60):
        first, second = two_answers(served_models, [Message(role="user", content="hi")])
        assert first.policy != second.policy
        pairs.add((first.policy, second.policy))
    assert len(pairs) == 6  # every pair, both ways round
    ServeConfig(chat=("a", "b", "c"))
    with pytest.raises(InputError, match="chat names 21 models; 20 are the most"):
        ServeConfig(chat=tuple(map(str, range(21))))


def test_names_come_after_the_vote_which_then_stands(studio: Studio) -> None:
    with pytest.raises(InputError, match="reveal is on, but kind is pair"):
        ProjectSettings(name="p", reveal=True)
    arena = studio.create_project(ProjectSettings(name="arena", kind="chat", reveal=True)).id
    quiet = studio.create_project(ProjectSettings(name="quiet", kind="chat")).id
    ann = Person(studio, client=client_of(studio, chat=ChatWork(studio, models())))
    item = talk(ann, arena, "Fix `import os`", "the-first-key")
    assert "model-" not in str(item)
    said = ann.submit(item["token"], {"choice": "first"}, key="the-vote")
    wrote = [f"model-{chr(int(text.split()[2]))}" for text in item["sources"]]
    assert said.json()["models"] == wrote
    assert ann.submit(item["token"], {"choice": "first"}, key="the-vote").json()["models"] == wrote
    undone = ann.send("POST", f"/assignments/{item['token']}/undo")
    assert (undone.status_code, "this vote stands" in undone.text) == (409, True)
    item = talk(ann, quiet, "hello", "second-key")
    assert ann.submit(item["token"], {"choice": "first"}).json()["models"] == []
    assert ann.send("POST", f"/assignments/{item['token']}/undo").status_code == 200
    page = ann.client.get(f"/leaderboard/{arena}").text
    assert all(name in page for name in wrote)
    assert ann.client.get(f"/leaderboard/{quiet}").status_code == 403
    assert "No ratings yet" in ann.client.get(f"/leaderboard/{arena}?category=mathematics").text
    assert ann.client.get(f"/leaderboard/{arena}?category=x").status_code == 422
    board = board_of(studio, "arena", category="code")
    assert board.board is not None
    assert (board.board.votes, board.counts["first messages"], board.counts["later messages"]) == (1, 1, 0)
    assert board_of(studio, "arena", controlled=True).board is not None


@pytest.mark.parametrize(
    ("name", "yes", "no"),
    [
        ("code", "Write a python function", "Write a poem"),
        ("mathematics", "What is 3 + 4?", "What is a number?"),
        ("long messages", "word " * 100, "word"),
    ],
)
def test_categories_go_by_the_last_message(name: str, yes: str, no: str) -> None:
    assert CATEGORIES[name](Prompt(content=yes))
    assert not CATEGORIES[name](Prompt(content=no))


def test_a_store_of_the_version_before_reveals_nothing(store: Store) -> None:
    studio = Studio(store)
    project = studio.create_project(ProjectSettings(name="arena", kind="chat", reveal=True)).id
    store.database.migrate("0012")
    store.database.migrate()
    assert studio.project(project).settings.reveal is False


@pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is a browser")
def test_in_a_browser_other_answers_an_edited_message_and_a_vote(studio: Studio, browser: Any) -> None:
    arena = studio.create_project(ProjectSettings(name="arena", kind="chat", reveal=True)).id
    with served(studio, chat=ChatWork(studio, models())) as base:
        page, watch = new_page(browser, base)
        sign_in(page, studio, base, "ann")
        page.goto(f"{base}/label/{arena}")
        page.fill("#message", "hello")
        page.keyboard.press("Enter")
        page.wait_for_selector(".response")
        before = page.locator(".response .text").all_inner_texts()
        page.click("[data-do=other_answers]")
        page.wait_for_function(
            "(old) => { const now = [...document.querySelectorAll('.response .text')].map((node) => node.innerText); return now.length && now.join() !== old.join(); }",
            arg=before,
        )
        page.click("[data-do=edit_message]")
        page.wait_for_selector("#composer:not([hidden])")
        assert page.input_value("#message") == "hello"
        page.fill("#message", "hello again")
        page.keyboard.press("Enter")
        page.wait_for_selector(".response")
        assert page.inner_text("#prompt .turn.user").endswith("hello again")
        assert "model-" not in page.content()
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        page.wait_for_selector("#revealed:not([hidden])")
        assert "Response 1 was by model-" in page.inner_text("#revealed")
        page.click("text=Leaderboard")
        page.wait_for_selector("table")
        assert page.locator("tbody tr").count() == 2
        assert watch.wrong == []
