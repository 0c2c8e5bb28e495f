"""The Python client and `prefloop label remote` against the server in this process."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefloop.cli import remote
from prefloop.configs.remote import (
    RemoteCallConfig,
    RemoteExportConfig,
    RemoteImportConfig,
    RemoteInviteConfig,
    RemoteProjectsConfig,
)
from prefloop.errors import InputError
from prefloop.studio import accounts, client, exchange
from prefloop.studio.client import RemoteError, RemoteStudio
from prefloop.studio.service import Studio as Service
from tests.studio.web import BASE, PASSWORD, client_of

Send = Callable[[httpx.Request], httpx.Response]
ROWS = [
    {"prompt": f"How is tea {n} made?", "chosen": f"With water {n}.", "rejected": f"With sand {n}."}
    for n in range(3)
]
CHAT = {
    "prompt": [{"role": "user", "content": "Hello"}],
    "chosen": [{"role": "assistant", "content": "Good day."}],
    "rejected": [{"role": "assistant", "content": "What?"}],
}


@pytest.fixture
def token(studio: Service) -> str:
    who = accounts.add_person(studio, "boss", PASSWORD, "admin")
    return accounts.new_token(studio, who, "all", ["read", "annotate", "admin"])


@pytest.fixture
def server(studio: Service) -> Send:
    """The server as a function of a request."""
    browser = client_of(studio)

    def answer(request: httpx.Request) -> httpx.Response:
        got = browser.request(
            request.method, str(request.url), content=request.content, headers=dict(request.headers)
        )
        return httpx.Response(got.status_code, headers=dict(got.headers), content=got.content)

    return answer


def at(send: Send, token: str, url: str = BASE) -> RemoteStudio:
    return RemoteStudio(url, token, client=httpx.Client(transport=httpx.MockTransport(send)))


@pytest.fixture
def remote_studio(server: Send, token: str) -> Iterator[RemoteStudio]:
    with at(server, token) as made:
        yield made


def answer_all(project: client.RemoteProject, **answer: Any) -> int:
    count = 0
    while item := project.next():
        project.submit(item, "first", **answer)
        count += 1
    return count


def test_a_project_goes_from_rows_to_comparisons(remote_studio: RemoteStudio) -> None:
    made = remote_studio.create_project("Tea", overlap=1)
    assert made.add(ROWS)["new"] == 3
    assert made.add(ROWS)["new"] == 0
    assert [each.name for each in remote_studio.projects()] == ["Tea"]
    tea = remote_studio.project("Tea")
    assert answer_all(tea) == 3
    assert tea.refreshed().progress["items"] == 3
    exported = tea.export()
    assert len(exported.rows) == 3
    assert {row["chosen"] for row in exported.rows} <= {
        row[side] for row in ROWS for side in ("chosen", "rejected")
    }
    assert exported.manifests[0]["rows"] == 3
    found = list(tea.find(text="tea"))
    assert len(found) == 3
    assert tea.act("archive", [found[0]["task"]]) == 1
    saved = remote_studio.save_dataset("tea", projects=["Tea"])
    assert saved["new"]
    assert [each["dataset"] for each in remote_studio.datasets("tea")] == ["tea@1"]


def test_chats_and_texts_come_as_two_files_and_all_their_rows(remote_studio: RemoteStudio) -> None:
    mixed = remote_studio.create_project("Mixed")
    mixed.add(ROWS)
    mixed.add([CHAT])
    assert answer_all(mixed) == 4
    exported = mixed.export()
    assert len(exported.files) == len(exported.manifests) == 2
    assert len(exported.rows) == 4


def test_settings_questions_and_people_are_set(remote_studio: RemoteStudio, studio: Service) -> None:
    accounts.add_person(studio, "ann", PASSWORD, "annotator")
    tea = remote_studio.create_project("Tea", guidelines="Be kind.")
    tea.set_questions([{"name": "correct", "kind": "rating"}])
    changed = tea.change(overlap=3, state="paused")
    assert (changed.settings["overlap"], changed.state) == (3, "paused")
    assert changed.settings["guidelines"] == "Be kind."
    assert [each["name"] for each in tea.questions()] == ["correct"]
    tea.set_member("ann", "adjudicator")
    assert [(each["login"], each["role"]) for each in tea.members()] == [("ann", "adjudicator")]
    assert remote_studio.invite("Tea", uses=2).startswith(f"{BASE}/join/")
    tea.change(state="open")
    tea.add(ROWS)
    with pytest.raises(InputError, match=r"read_guidelines\('\w+'\)") as unread:
        tea.next()
    tea.read_guidelines(str(unread.value).partition("read_guidelines('")[2].partition("'")[0])
    assert tea.next() is not None


def test_what_the_server_refuses_is_told_in_its_words(
    remote_studio: RemoteStudio, server: Send, studio: Service
) -> None:
    with pytest.raises(InputError, match="has no project 'Coffee' that you belong to; there is none"):
        remote_studio.project("Coffee")
    with pytest.raises(
        RemoteError, match=r"GET /projects/99: project 99 does not exist \(HTTP 404\)"
    ) as error:
        remote_studio.call("GET", "/projects/99")
    assert error.value.status == 404
    ann = accounts.add_person(studio, "ann", PASSWORD, "annotator")
    reads = accounts.new_token(studio, ann, "look", ["read"])
    with pytest.raises(RemoteError, match="only an admin may do this"):
        at(server, reads).create_project("Mine")
    with pytest.raises(RemoteError, match="this token is not valid"):
        at(server, "pf_wrong").me()


def test_an_answer_that_got_lost_on_its_way_back_counts_once(
    server: Send, token: str, studio: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    lost = ["/submit"]

    def loses(request: httpx.Request) -> httpx.Response:
        answer = server(request)
        if lost and request.url.path.endswith(lost[0]):
            lost.pop()
            raise httpx.ReadError("the connection broke")
        return answer

    tea = at(loses, token).create_project("Tea")
    tea.add(ROWS[:1])
    item = tea.next()
    assert item is not None
    assert tea.submit(item, "first")["state"] == "submitted"
    assert not lost
    assert len(tea.export().rows) == 1


@pytest.mark.parametrize(
    ("method", "failure", "sent"),
    [
        ("POST", httpx.ConnectError("refused"), client.ATTEMPTS),
        ("POST", httpx.ReadError("broke"), 1),  # it may have been done: twice is not once
        ("GET", httpx.ReadError("broke"), client.ATTEMPTS),
        ("POST", 503, client.ATTEMPTS),
        ("POST", 500, 1),
        ("POST", 409, 1),
    ],
)
def test_what_may_have_been_done_is_not_sent_again(
    method: str, failure: httpx.TransportError | int, sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    tries: list[httpx.Request] = []

    def fails(request: httpx.Request) -> httpx.Response:
        tries.append(request)
        if isinstance(failure, int):
            return httpx.Response(failure, json={"detail": "no"})
        raise failure

    with pytest.raises(RemoteError):
        at(fails, "pf_x").call(method, "/projects")
    assert len(tries) == sent


def test_the_token_goes_to_its_studio_alone_and_is_never_shown() -> None:
    asked: list[str] = []

    def moved(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(307, headers={"Location": "https://elsewhere.example/api/v1/me"})

    studio = at(moved, "pf_secret", "https://label.example")
    with pytest.raises(RemoteError) as error:
        studio.me()
    assert asked == ["label.example"]
    assert "pf_secret" not in f"{studio!r} {error.value}"


def test_addresses_and_tokens_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(client.TOKEN_VARIABLE, raising=False)
    for url, told in (("", "url is empty"), ("ftp://x", "write the full address"), ("https://x", "no token")):
        with pytest.raises(InputError, match=told):
            RemoteStudio(url)
    with pytest.raises(InputError, match="copy it again"):
        RemoteStudio("https://x", "pf_a\nX-Header: 1")
    with pytest.warns(UserWarning, match="clear text"):
        RemoteStudio("http://label.example", "pf_x").close()


def test_rows_that_are_none(remote_studio: RemoteStudio, tmp_path: Path) -> None:
    tea = remote_studio.create_project("Tea")
    with pytest.raises(InputError, match="row 1 is str, not a dict"):
        tea.add(["prompt"])  # type: ignore[list-item]
    with pytest.raises(InputError, match="no rows"):
        tea.add([])
    with pytest.raises(InputError, match="cannot be read"):
        tea.add(tmp_path / "none.jsonl")


def test_commands_do_the_same(
    server: Send,
    token: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(InputError, match="url is empty"):
        remote.connect("")
    monkeypatch.setenv("PREFLOOP_URL", BASE)
    monkeypatch.setenv(client.TOKEN_VARIABLE, token)
    made = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda: made(transport=httpx.MockTransport(server)))
    source = tmp_path / "tea.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    remote.import_items(RemoteImportConfig(source=str(source), project="Tea", overlap=1))
    with pytest.raises(InputError, match="overlap is 2, but project 'Tea' has 1"):
        remote.import_items(RemoteImportConfig(source=str(source), project="Tea", overlap=2))
    tea = remote.connect("").project("Tea")
    tea.set_questions([{"name": "correct", "kind": "rating"}])
    answer_all(tea, answers=[{"question": "correct", "value": 4}])
    out = tmp_path / "out.jsonl"
    remote.export(RemoteExportConfig(project="Tea", out=str(out)))
    assert exchange.verify(out)["rows"] == 3
    remote.export(RemoteExportConfig(project="Tea", out=str(tmp_path / "answers.jsonl"), kind="answers"))
    told = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [row["answers"] for row in told] == [{"correct": 4}] * 3
    capsys.readouterr()
    remote.list_projects(RemoteProjectsConfig(json=True))
    assert json.loads(capsys.readouterr().out)[0]["settings"]["name"] == "Tea"
    remote.invite(RemoteInviteConfig(projects=("Tea",), uses=3))
    assert capsys.readouterr().out.startswith(f"{BASE}/join/")
    remote.call(RemoteCallConfig(method="GET", path="/audit", query=("limit=1",)))
    assert len(json.loads(capsys.readouterr().out)) == 1
    with pytest.raises(InputError, match="is not JSON"):
        remote.call(RemoteCallConfig(method="PUT", path="/people/1/role", body="role"))
