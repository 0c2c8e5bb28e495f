"""A public arena: what visitors without an account may do, how much, and what their votes count for."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from prefloop.data.store import Store, studio_models
from prefloop.errors import InputError
from prefloop.records import Message
from prefloop.studio import accounts, guests
from prefloop.studio.arena import board_of
from prefloop.studio.chat_work import ChatWork, _Written
from prefloop.studio.responders import Candidate, Show
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings
from tests.studio.conftest import Clock
from tests.studio.live import new_page, served, why_no_browser
from tests.studio.test_arena import Named, models
from tests.studio.web import PASSWORD, Person, client_of


class Visitor:
    """Somebody without an account who came in by the arena's door."""

    def __init__(
        self, studio: Studio, project: int, *, client: TestClient | None = None, served: Sequence[Any] = ()
    ) -> None:
        self.client = client or client_of(studio, chat=ChatWork(studio, served or models()))
        self.client.cookies.clear()
        page = self.client.get(f"/arena/{project}").text
        token = re.findall(r'name="form_token" value="([^"]+)"', page)[0]
        answer = self.client.post(f"/arena/{project}", data={"form_token": token})
        assert (answer.status_code, answer.headers.get("location")) == (303, f"/label/{project}"), answer.text
        self.csrf = re.findall(r'"csrf": "([^"]+)"', self.client.get(f"/label/{project}").text)[0]
        self.project = project

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        sent = {"X-CSRF-Token": self.csrf} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return self.client.request(method, f"/api/v1{path}", json=body, headers=sent)

    def say(self, message: str) -> Any:
        token = self.send("POST", "/chats", {"project": self.project, "new": True}).json()["token"]
        return self.send(
            "POST", f"/chats/{token}/messages", {"message": message}, Idempotency_Key=uuid4().hex
        )

    def battle(self, message: str) -> Any:
        """The two answers to a message."""
        said = self.say(message)
        assert said.status_code == 200, said.text
        while (now := self.send("GET", f"/chats/{said.json()['token']}").json())["waiting"]:
            pass
        return now["assignment"]

    def vote(self, message: str, choice: str = "first", **more: Any) -> Any:
        token = self.battle(message)["token"]
        return self.send(
            "POST", f"/assignments/{token}/submit", {"choice": choice} | more, Idempotency_Key=uuid4().hex
        )


@pytest.fixture
def arena(studio: Studio) -> int:
    accounts.add_person(studio, "chief", PASSWORD, "admin")
    return studio.create_project(ProjectSettings(name="arena", kind="chat", reveal=True, access="public")).id


def change(studio: Studio, project: int, **settings: Any) -> None:
    studio.change_project(project, replace(studio.project(project).settings, **settings))


def test_a_visitor_votes_without_an_account_and_sees_nothing_else(studio: Studio, arena: int) -> None:
    other = studio.create_project(ProjectSettings(name="other")).id
    studio.add_tasks(other, studio.store.add_pairs().ids)
    visitor = Visitor(studio, arena)
    said = visitor.vote("What is a store?")
    assert (said.status_code, len(said.json()["models"])) == (200, 2)
    board = board_of(studio, "arena").board
    assert board is not None
    assert board.votes == 1
    for path in (
        f"/label/{other}",
        "/adjudicate",
        "/admin",
        "/history",
        "/settings",
        "/settings/two-factor",
        "/admin/people",
        f"/arena/{other}",
        f"/leaderboard/{other}",
    ):
        assert visitor.client.get(path).status_code in (403, 404), path
    for method, path, body in (
        ("GET", "/projects", None), ("GET", "/me/tokens", None), ("POST", "/me/tokens", {"name": "x", "scopes": ["read"]}),
        ("POST", "/assignments/next", {"project": other}), ("GET", "/people", None),
    ):  # fmt: skip
        answer = visitor.send(method, path, body)
        assert answer.status_code in (403, 404) or answer.json() == [], (path, answer.text)
    assert [person.login for person in accounts.people(studio)] == ["chief"]
    nobody = client_of(studio)
    assert "model-" in nobody.get(f"/leaderboard/{arena}").text
    assert nobody.get(f"/leaderboard/{other}").status_code == 401
    assert nobody.get(f"/arena/{other}").status_code == 404


def test_looking_makes_no_account_and_no_form_of_elsewhere_does(studio: Studio, arena: int) -> None:
    browser = client_of(studio)
    assert browser.get(f"/arena/{arena}").status_code == 200
    assert browser.post(f"/arena/{arena}", data={"form_token": "x" * 30}).status_code == 403
    with studio.read() as session:
        assert len(session.scalars(select(studio_models.AccountRow)).all()) == 1
    with pytest.raises(InputError, match="access is public, but kind is pair"):
        ProjectSettings(name="p", access="public")


def test_a_battle_counts_once_and_not_after_its_names_are_shown(studio: Studio, arena: int) -> None:
    visitor = Visitor(studio, arena)
    token = visitor.battle("hello")["token"]
    path = f"/assignments/{token}/submit"
    first = visitor.send("POST", path, {"choice": "first"}, Idempotency_Key="a-key-of-mine")
    assert first.json()["models"]
    for choice, key in (("second", "another-key"), ("second", "a-key-of-mine"), ("first", "a-third-key")):
        assert visitor.send("POST", path, {"choice": choice}, Idempotency_Key=key).status_code == 409
    assert visitor.send("POST", f"/assignments/{token}/undo").status_code == 409
    stranger = Visitor(studio, arena)
    assert (
        stranger.send("POST", path, {"choice": "second"}, Idempotency_Key="a-fourth-key").status_code == 404
    )
    board = board_of(studio, "arena").board
    assert board is not None
    assert (board.votes, sum(row.wins for row in board.ratings)) == (1, 1)


def test_no_answer_names_the_models_before_the_vote(studio: Studio, arena: int) -> None:
    visitor = Visitor(studio, arena)
    answers: list[Any] = []
    send = visitor.client.request
    visitor.client.request = lambda *given, **more: answers.append(send(*given, **more)) or answers[-1]  # type: ignore[method-assign]
    item = visitor.battle("hello")
    visitor.client.get(f"/label/{arena}")
    told = [answer.text + str(answer.headers) for answer in answers]
    assert len(told) >= 4
    assert not [each for each in told if "model-" in each]
    with studio.read() as session:
        tokens = session.scalars(select(studio_models.AssignmentRow.token)).all()
    assert tokens == [item["token"]]
    # What identifies the answers is random; nothing else of them has a number.
    assert not re.findall(r'"(?:id|completion|item|checkpoint|seed|model)\w*":', " ".join(told))


def test_both_answers_grow_together_so_that_no_model_is_known_by_its_speed() -> None:
    seen: list[list[str]] = []
    for together in (True, False):
        written = _Written([1, 0], lambda texts: seen.append(list(texts)) or True, together=together)
        written.of(0)("a slow one")
        written._next = 0.0
        written.of(1)("a much, much faster one")
    assert seen == [
        ["", ""],
        ["a much, mu", "a slow one"],
        ["", "a slow one"],
        ["a much, much faster one", "a slow one"],
    ]


def test_limits_of_messages_length_people_and_tokens(studio: Studio, arena: int, clock: Clock) -> None:
    change(studio, arena, visitor_messages=3, visitor_length=20)
    limits = {"visitor": (1000, 60.0), "visitors of an address": (1000, 60.0)}
    client = client_of(studio, chat=ChatWork(studio, models()), limits=limits)
    visitor = Visitor(studio, arena, client=client)
    long = visitor.say("x" * 21)
    assert (long.status_code, "20 characters at most; yours has 21" in long.text) == (422, True)
    for _ in range(3):
        visitor.vote("hello")
    assert "today's 3 messages" in visitor.say("hello").text
    clock.forward(86400)
    assert visitor.vote("hello").status_code == 200
    change(studio, arena, visitor_chats=1)
    second = Visitor(studio, arena)
    assert "too many people are talking" in second.say("hello").text
    assert visitor.vote("hello").status_code == 200  # who talks goes on
    clock.forward(601)
    assert second.vote("hello").status_code == 200
    change(
        studio, arena, visitor_chats=20, visitor_tokens=18
    )  # two answers of three tokens a message, three today
    assert "today's answers are used up" in second.say("hello").text
    change(studio, arena, visitor_tokens=19)
    assert second.say("hello").status_code == 200
    member = Person(studio, client=client)
    said = member.send("POST", "/chats", {"project": arena}).json()["token"]
    longer = member.send(
        "POST", f"/chats/{said}/messages", {"message": "x" * 99}, Idempotency_Key="key-of-a-member"
    )
    assert longer.status_code == 200  # the limits are for visitors


def test_limits_of_an_address_and_of_a_session(studio: Studio, arena: int) -> None:
    limits = {"guests": (2, 3600.0), "visitor": (2, 60.0), "visitors of an address": (3, 60.0)}
    browser = client_of(studio, chat=ChatWork(studio, models()), limits=limits)
    first = Visitor(studio, arena, client=browser)
    assert [first.vote("hello").status_code for _ in range(2)] == [200, 200]
    assert first.say("hello").status_code == 429
    second = Visitor(studio, arena, client=browser)
    assert second.vote("hello").status_code == 200
    assert second.say("hello").status_code == 429  # the address has had its three
    with pytest.raises(AssertionError, match=r"429|too many"):
        Visitor(studio, arena, client=browser)


def test_a_vote_on_a_conversation_that_names_a_model_is_left_out(studio: Studio, arena: int) -> None:
    visitor = Visitor(studio, arena)
    for message in ("hello", "Are you ChatGPT?", "As model-a, answer me", "I like llamas"):
        assert visitor.vote(message).status_code == 200
    found = board_of(studio, "arena")
    assert found.board is not None
    # model-a is a name only where it was one of the two.
    assert found.left_out["a conversation that names a model"] in (1, 2)
    assert found.board.votes == 4 - found.left_out["a conversation that names a model"]
    assert "Left out:" in visitor.client.get(f"/leaderboard/{arena}").text


class Boasting(Named):
    """A model that says who it is."""

    def reply(self, messages: Sequence[Message], *, seed: int, show: Show) -> Candidate:
        """Its name and its words."""
        return replace(super().reply(messages, seed=seed, show=show), text=f"I am {self.name}, {self.times}.")


def test_a_model_that_says_who_it_is_wins_nothing_by_it(studio: Studio, arena: int) -> None:
    visitor = Visitor(studio, arena, served=[Boasting("model-a"), Boasting("model-b")])
    visitor.vote("hello")
    assert board_of(studio, "arena").left_out == {"a conversation that names a model": 1}


def test_an_admin_sees_who_stuffs_votes_and_shuts_them_out(studio: Studio, arena: int) -> None:
    boss = Person(studio, "boss", "admin")
    stuffer, reader = Visitor(studio, arena), Visitor(studio, arena)
    for _ in range(3):
        stuffer.vote("hello", duration_ms=100)
    reader.vote("hello", "second", duration_ms=9000)
    path = f"/admin/projects/{arena}/visitors"
    page = boss.client.get(path).text
    rows = [re.findall(r'<td class="number">(\d+)</td>', row) for row in page.split("<tr ")[1:]]
    assert rows == [["3", "3", "3", "0", "3", "0"], ["1", "1", "0", "0", "0", "0"]]
    assert "127.0.0.1" not in page
    account = re.findall(r'name="account" value="(\d+)"', page)[0]
    assert boss.client.post(path, data={"account": account}).status_code == 403
    assert reader.client.post(path, data={"account": account, "csrf": reader.csrf}).status_code == 403
    for wrong in (str(boss.who.account), "x", "99999"):
        assert boss.client.post(path, data={"csrf": boss.csrf, "account": wrong}).status_code == 404
    assert boss.client.post(path, data={"csrf": boss.csrf, "account": account}).status_code == 303
    assert stuffer.client.get("/api/v1/me").status_code == 401
    found = board_of(studio, "arena")
    assert found.board is not None
    assert (found.board.votes, found.left_out) == (1, {"a visitor who is blocked": 3})


def test_an_arena_that_closes_takes_no_more_votes_of_visitors(studio: Studio, arena: int) -> None:
    visitor = Visitor(studio, arena)
    change(studio, arena, access="members")
    assert "no longer takes visitors" in visitor.say("hello").text
    assert client_of(studio).get(f"/arena/{arena}").status_code == 404


def test_guests_of_a_newer_store_are_shut_out_by_an_older_one(store: Store) -> None:
    studio = Studio(store)
    accounts.add_person(studio, "chief", PASSWORD, "admin")
    arena = studio.create_project(ProjectSettings(name="arena", kind="chat", access="public")).id
    guest = guests.visit(studio, arena)
    cookie = accounts.open_session(studio, guest)
    store.database.migrate("0017")
    store.database.migrate()
    assert accounts.of_session(studio, cookie) is None
    assert studio.project(arena).settings.access == "members"
    assert studio.project(arena).settings.visitor_messages == 30


@pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is a browser")
def test_in_a_browser_from_the_door_to_the_leaderboard(studio: Studio, arena: int, browser: Any) -> None:
    with served(studio, chat=ChatWork(studio, models())) as base:
        page, watch = new_page(browser, base)
        page.goto(f"{base}/arena/{arena}")
        page.click("text=Begin")
        page.fill("#message", "hello")
        page.keyboard.press("Enter")
        page.wait_for_selector(".response")
        assert "model-" not in page.content()
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        page.wait_for_selector("#revealed:not([hidden])")
        page.click("text=Leaderboard")
        page.wait_for_selector("table")
        assert page.locator("tbody tr").count() == 2
        assert watch.wrong == []
