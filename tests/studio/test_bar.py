"""Lines of the security and reliability bar that are about the running server: what it logs, how it starts and stops, what it limits."""

import logging
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select, text

from prefloop.configs.label import ServeConfig
from prefloop.data.store import models, studio_models
from prefloop.studio import assign, invitations
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, ProjectSettings
from tests.studio.web import PASSWORD, Person, client_of


@pytest.fixture
def project(studio: Studio) -> int:
    made = studio.create_project(ProjectSettings(name="p"))
    studio.add_tasks(made.id, studio.store.add_pairs().ids)
    return made.id


def test_logs_hold_no_text_no_name_and_no_secret(
    studio: Studio, project: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="prefloop"):
        ann = Person(studio, "ann-in-person")
        item = ann.next(project)
        ann.submit(item["token"], {"choice": "first", "rationale": "private words", "edited": "my own reply"})
        ann.submit(item["token"], {"choice": "first", "rationale": "private words again"})
        ann.client.get("/nowhere?query=private")
        secret = invitations.invite(studio, "annotator")
        ann.client.get(f"/join/{secret}")
        ann.client.post("/login", data={"login": "ann-in-person", "password": "guess"})
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("prefloop")]
    assert any("/api/v1/assignments/{token}/submit 200" in line for line in lines)
    assert any("/api/v1/assignments/{token}/submit 409" in line for line in lines)
    told = "\n".join(lines)
    cookie = ann.client.cookies["prefloop_session"]
    for hidden in (
        "private",
        "my own reply",
        "ann-in-person",
        PASSWORD,
        item["token"],
        secret,
        cookie,
        "answer 0",
    ):
        assert hidden not in told, hidden


def test_answers_are_limited(studio: Studio, project: int) -> None:
    ann = Person(studio, client=client_of(studio, limits={"answers": (2, 60.0)}))
    bea = Person(studio, "bea", client=client_of(studio, limits={"answers": (2, 60.0)}))
    states = [ann.submit(ann.next(project)["token"], {"choice": "tie"}).status_code for _ in range(3)]
    assert states == [200, 200, 429]
    assert bea.submit(bea.next(project)["token"], {"choice": "tie"}).status_code == 200


def test_tokens_are_guessed_slowly_and_shown_once(studio: Studio) -> None:
    ann = Person(studio, client=client_of(studio, limits={"tokens": (3, 60.0)}))
    made = ann.send("POST", "/tokens", {"name": "script", "scopes": ["read"]}).json()["token"]
    listed = ann.send("GET", "/tokens").text
    assert made not in listed
    assert made.rpartition("_")[2] not in listed + ann.client.get("/settings").text
    ann.client.cookies.clear()
    guess = {"Authorization": "Bearer pf_00000000_guess"}
    codes = [ann.client.get("/api/v1/me", headers=guess).status_code for _ in range(5)]
    assert codes == [401, 401, 401, 429, 429]


def test_nobody_beyond_this_machine_is_served_unless_asked_for() -> None:
    assert ServeConfig().host == "127.0.0.1"


@pytest.mark.usefixtures("waits_for_the_disk")
def test_an_answer_reaches_the_disk_before_it_is_acknowledged_and_a_lease_need_not(
    studio: Studio, project: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, int] = {}
    for name in ("lease", "submit", "skip", "undo"):
        work = getattr(assign, name)

        def watched(
            session: object, *rest: object, work: object = work, name: str = name, **more: object
        ) -> object:
            seen[name] = session.execute(text("PRAGMA synchronous")).scalar_one()  # type: ignore[attr-defined]
            return work(session, *rest, **more)  # type: ignore[operator]

        monkeypatch.setattr(assign, name, watched)
    ann = studio.store.add_annotator("ann")
    last = ""
    for number in range(3):
        got = studio.lease(project, ann)
        assert got is not None
        if number:
            studio.skip(got.token, ann, key="12345678")
        else:
            studio.submit(got.token, ann, Answer(choice="tie"), key="12345678")
        last = got.token
    studio.undo(last, ann)
    assert seen == {"lease": 1, "submit": 2, "skip": 2, "undo": 2}  # 1: NORMAL, 2: FULL


def test_what_fails_leaves_neither_an_answer_nor_its_audit(
    studio: Studio, project: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = studio.store.add_annotator("ann")
    got = studio.lease(project, ann)
    assert got is not None

    def counts() -> tuple[int | None, ...]:
        with studio.read() as session:
            return tuple(
                session.scalar(select(func.count()).select_from(table))
                for table in (
                    models.JudgementRow,
                    studio_models.JudgementDetailRow,
                    studio_models.AuditEventRow,
                )
            )

    before = counts()

    def broken(*_: object, **__: object) -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr("prefloop.studio.audit.write", broken)
        with pytest.raises(OSError, match="gone"):
            studio.submit(got.token, ann, Answer(choice="tie"), key="12345678")
    assert counts() == before
    assert studio.submit(got.token, ann, Answer(choice="tie"), key="12345678").state == "submitted"
    assert counts() == tuple((count or 0) + 1 for count in before)


def answered(client: httpx.Client, address: str) -> httpx.Response:
    """What a server says that is about to start."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return client.get(address)
        except httpx.ConnectError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_the_command_makes_everything_greets_once_and_stops_gracefully(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = tmp_path / "prefloop.db"
    command = [sys.executable, "-u", "-m", "prefloop", "label", "serve", "--demo", "--store", str(store)]
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        link = ""
        for line in process.stdout:
            found = re.search(r"http://127\.0\.0\.1:\d+/join/\S+", line)
            if found:
                link = found.group()
                break
        assert link
        with httpx.Client(timeout=60) as client:
            page = answered(client, link)
            token = re.findall(r'name="form_token" value="([^"]+)"', page.text)[0]
            made = client.post(link, data={"form_token": token, "login": "me", "password": PASSWORD})
            assert re.fullmatch(r"/label/\d+", made.headers["location"])
            assert client.get(link).status_code == 404
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        assert process.stdout is not None
        process.stdout.close()
        process.wait()
