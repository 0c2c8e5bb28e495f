"""`prefloop label serve`, the real command: an empty folder, a link, the first comparison, and a clean end."""

import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from prefloop.cli.program import main
from prefloop.data.store import Store


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_from_an_empty_folder_to_a_stored_answer(tmp_path: Path) -> None:
    port, store = free_port(), tmp_path / "prefloop.db"
    command = [
        sys.executable,
        "-m",
        "prefloop",
        "label",
        "serve",
        "--demo",
        "--store",
        str(store),
        "--port",
        str(port),
    ]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watchdog = threading.Timer(300, server.kill)
    watchdog.start()
    try:
        assert server.stdout is not None
        said = ""
        while not (link := re.search(rf"http://127\.0\.0\.1:{port}/join/\S+", said)):
            line = server.stdout.readline()
            assert line, said
            said += line
        address = link.group()
        transport = httpx.HTTPTransport(retries=20)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=transport, timeout=120) as browser:
            page = _get(browser, address)
            token = re.findall(r'name="form_token" value="([^"]+)"', page)[0]
            form = {"form_token": token, "login": "me", "password": "three small words"}
            made = browser.post(address, data=form)
            assert made.status_code == 303
            page = browser.get(made.headers["location"]).text
            csrf = re.findall(r'"csrf": "([^"]+)"', page)[0]
            headers = {"X-CSRF-Token": csrf, "Idempotency-Key": "12345678"}
            first = browser.post("/api/v1/assignments/next", json={"project": 1}, headers=headers).json()
            read = {"version": first["guidelines"]["version"]}
            done = browser.post("/api/v1/projects/1/guidelines/read", json=read, headers=headers)
            assert done.status_code == 204
            asked = browser.post("/api/v1/assignments/next", json={"project": 1}, headers=headers).json()
            token = asked["assignment"]["token"]
            answer = browser.post(
                f"/api/v1/assignments/{token}/submit", json={"choice": "first"}, headers=headers
            )
            assert answer.json()["state"] == "submitted"
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) in (0, -signal.SIGTERM)
    finally:
        watchdog.cancel()
        server.kill()
        server.communicate()
    with Store.open(store, create=False) as opened:
        assert opened.counts()["judgement"] == 1


def test_a_taken_port_is_said_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "prefloop.db"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["label", "serve", "--store", str(store), "--port", str(port)]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"prefloop: error: cannot listen on 127.0.0.1 port {port}: ")
    assert "--port" in err
    assert out == ""
    assert not store.exists()


def _get(browser: httpx.Client, address: str) -> str:
    """The page, once the server listens: it prints the link before."""
    import time

    for _ in range(600):
        try:
            return browser.get(address).text
        except httpx.ConnectError:
            time.sleep(0.1)
    pytest.fail("the server did not listen within a minute")
