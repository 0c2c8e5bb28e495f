"""What a team watches: numbers that add up over all worker processes, log lines that programs read, and nothing of anybody in either."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from prefloop.configs.label import ServeConfig
from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.studio import serve
from prefloop.studio.service import Studio
from prefloop.studio.telemetry import Handled, log_request, parse_address, request_id, set_up_logs
from tests.studio.test_prefix import free_port
from tests.studio.web import client_of


@contextmanager
def running(store: Path, *flags: str) -> Iterator[tuple[str, Path]]:
    """A server in a process of its own: its address, and the file with what it logs."""
    port = free_port()
    told = store.with_name("log")
    command = [sys.executable, "-m", "prefloop", "label", "serve", "--store", str(store), "--port", str(port), *flags]  # fmt: skip
    with told.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=stream, env=os.environ | {"PYTHONUNBUFFERED": "1"}
        )
    base = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                httpx.get(f"{base}/healthz", headers={"x-request-id": "starting"})
                break
            except httpx.TransportError:
                assert process.poll() is None, told.read_text()
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.05)
        yield base, told
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def numbers(text: str) -> dict[str, float]:
    """Name with labels -> value."""
    lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_numbers_of_all_workers_add_up_and_each_request_is_a_line(tmp_path: Path) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    flags = ("--workers", "2", "--metrics", metrics, "--log_format", "json", "--log_requests", "true", "--demo", "true")  # fmt: skip
    with running(tmp_path / "prefloop.db", *flags) as (base, told):
        before = numbers(httpx.get(f"http://{metrics}/metrics").text)
        for number in range(40):  # a new connection each, so that both workers have some
            httpx.get(f"{base}/login?next=/secret", headers={"x-request-id": f"mine-{number}"})
        httpx.get(f"{base}/join/not-a-secret")
        httpx.get(f"{base}/nowhere")
        page = httpx.get(f"http://{metrics}/metrics").text
        assert httpx.get(f"{base}/metrics").status_code == 404  # not where a proxy would show it
        after = numbers(page)
        login = 'prefloop_requests_total{method="GET",route="/login",status="200"}'
        assert after[login] - before.get(login, 0) == 40
        assert after['prefloop_requests_total{method="GET",route="/join/{secret}",status="404"}'] == 1
        assert after['prefloop_requests_total{method="GET",route="(none)",status="404"}'] == 1
        assert after['prefloop_request_seconds_count{method="GET",route="/login"}'] == 40
        assert after['prefloop_request_seconds_bucket{le="+Inf",method="GET",route="/login"}'] == 40
        assert 0 < after['prefloop_request_seconds_sum{method="GET",route="/login"}'] < 60
        assert (after["prefloop_store_up"], after["prefloop_leases"]) == (1, 0)
    assert "secret" not in re.sub(r"\{secret\}", "", page)
    lines = [json.loads(line) for line in told.read_text().splitlines()]
    mine = [line for line in lines if line.get("request_id", "").startswith("mine-")]
    assert len(mine) == 40
    assert len({line["request_id"] for line in mine}) == 40
    assert {(line["method"], line["route"], line["status"], line["level"]) for line in mine} == {
        ("GET", "/login", 200, "INFO")
    }
    assert all(line["ms"] >= 0 and line["timestamp"] for line in mine)
    assert "not-a-secret" not in told.read_text()


def test_a_log_of_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    before = root.level
    try:
        set_up_logs(json=False)
        log_request(Handled(method="GET", route="/login", status=200, seconds=0.0032, id="a"))
    finally:
        root.setLevel(before)
    assert capsys.readouterr().err == "INFO GET /login 200 3.2 ms\n"


def test_the_watch_sees_what_the_guard_refuses_and_ids_come_back(tmp_path: Path) -> None:
    seen: list[Handled] = []
    with Store.open(tmp_path / "prefloop.db") as store:
        client = client_of(Studio(store), watches=[seen.append])
        refused = client.get("/healthz", headers={"host": "elsewhere", "x-request-id": "a b\x00"})
        kept = client.get("/static/label.js", headers={"x-request-id": "proxy-1"})
    assert [(each.route, each.status) for each in seen] == [("(none)", 421), ("(static)", 200)]
    assert re.fullmatch(r"[0-9a-f]{16}", refused.headers["x-request-id"])
    assert kept.headers["x-request-id"] == seen[1].id == "proxy-1"
    assert request_id("x" * 65) != "x" * 65


@pytest.mark.parametrize("address", ["9464", ":9464", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:99999", "a:b"])
def test_an_address_that_is_none_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="write HOST:PORT"):
        serve.serve(ServeConfig(store=str(tmp_path / "prefloop.db"), metrics=address, port=free_port()))
    assert not (tmp_path / "prefloop.db").exists()


def test_addresses_in_numbers_and_names() -> None:
    assert parse_address("[::1]:9464") == ("::1", 9464)
    assert parse_address("localhost:1") == ("localhost", 1)
