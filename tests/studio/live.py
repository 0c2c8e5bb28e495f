"""A real server in a thread, and a real browser: Debian's Chromium, driven by Playwright."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from prefloop.studio import accounts
from prefloop.studio.app import make_app
from prefloop.studio.pages_oidc import offer
from prefloop.studio.pages_runs import follow_runs
from prefloop.studio.run_folders import RunFolders
from prefloop.studio.security import Hosts
from prefloop.studio.service import Studio

PASSWORD = "three small words"


def why_no_browser() -> str:
    """What is missing for tests in a browser; empty if nothing is."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed (pip install playwright)"
    return "" if chromium() else "there is no chromium on this machine (apt-get install chromium)"


def chromium() -> str:
    """Where Chromium is; empty if nowhere."""
    return next(
        (
            path
            for path in ("/usr/bin/chromium", shutil.which("chromium") or "")
            if path and Path(path).exists()
        ),
        "",
    )


@contextmanager
def served(
    studio: Studio, *, runs: RunFolders | None = None, provider: Any = None, **settings: Any
) -> Iterator[str]:
    """The studio's address while it is served. `provider`: of single sign-on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = make_app(studio, hosts=Hosts.of("127.0.0.1"), **settings)
    follow_runs(app, runs)
    if provider is not None:
        offer(app, provider)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


class Watch:
    """What no page may do: ask another server, break the content policy, throw, open a dialog."""

    def __init__(self, page: Any, base: str) -> None:
        self.wrong: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.wrong.append(f"error {error}"))
        page.on("dialog", self._dialog)
        page.on("request", lambda request: self._request(request.url, base))

    def _console(self, message: Any) -> None:
        if message.type == "error" and "status of 4" not in message.text:
            self.wrong.append(f"console {message.text}")

    def _dialog(self, dialog: Any) -> None:
        self.wrong.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def _request(self, url: str, base: str) -> None:
        if not url.startswith((base, "data:", "blob:")):
            self.wrong.append(f"request {url}")


MINUTES = 120_000
"""Milliseconds: patience on a busy machine."""


@contextmanager
def opened() -> Iterator[Any]:
    """A browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


def new_page(browser: Any, base: str) -> tuple[Any, Watch]:
    """A page of its own, and who watches it."""
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.set_default_timeout(MINUTES)
    return page, Watch(page, base)


def sign_in(
    page: Any, studio: Studio, base: str, login: str, role: Any = "annotator", *, read: bool = True
) -> accounts.Who:
    """Make an account and sign in with its cookie, without the form. `read`: whether they have read all guidelines."""
    who = accounts.add_person(studio, login, PASSWORD, role)
    if read:
        read_all(studio, who)
    cookie = accounts.open_session(studio, who.account)
    page.context.add_cookies([{"name": "prefloop_session", "value": cookie, "url": base}])
    return who


def read_all(studio: Studio, who: accounts.Who) -> None:
    """Say that somebody has read the guidelines of every project."""
    for project in studio.projects():
        studio.acknowledge(project.id, who.annotator, project.guideline_version)
