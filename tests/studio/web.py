"""A browser without a screen: Starlette's test client that keeps cookies and knows the forms' tokens."""

import re
from typing import Any
from uuid import uuid4

from fastapi.testclient import TestClient

from prefloop.studio import accounts
from prefloop.studio.app import make_app
from prefloop.studio.pages_runs import follow_runs
from prefloop.studio.security import Hosts
from prefloop.studio.service import Studio
from prefloop.studio.telemetry import log_request

PASSWORD = "three small words"
BASE = "http://127.0.0.1:8100"


def client_of(studio: Studio, **settings: Any) -> TestClient:
    """A browser with no account."""
    settings.setdefault("hosts", Hosts.of("127.0.0.1"))
    settings.setdefault("watches", (log_request,))
    runs = settings.pop("runs", None)
    app = make_app(studio, **settings)
    follow_runs(app, runs)
    return TestClient(app, base_url=BASE, follow_redirects=False, raise_server_exceptions=True)


class Person:
    """Somebody who is signed in."""

    def __init__(
        self, studio: Studio, login: str = "ann", role: Any = "annotator", *, client: TestClient | None = None
    ) -> None:
        self.client = client or client_of(studio)
        self.client.cookies.clear()
        self.who = accounts.add_person(studio, login, PASSWORD, role)
        answer = self.sign_in(login, PASSWORD)
        assert answer.status_code == 303, answer.text
        self.csrf = re.findall(r'name="csrf" value="([^"]+)"', self.client.get("/").text)[0]

    def sign_in(self, login: str, password: str) -> Any:
        page = self.client.get("/login").text
        token = re.findall(r'name="form_token" value="([^"]+)"', page)[0]
        return self.client.post("/login", data={"form_token": token, "login": login, "password": password})

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        sent = {"X-CSRF-Token": self.csrf} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return self.client.request(method, f"/api/v1{path}", json=body, headers=sent)

    def next(self, project: int, have: list[str] | None = None) -> Any:
        answer = self.send("POST", "/assignments/next", {"project": project, "have": have or []})
        assert answer.status_code == 200, answer.text
        unread = answer.json()["guidelines"]
        if unread:
            self.read(project, unread["version"])
            return self.next(project, have)
        return answer.json()["assignment"]

    def read(self, project: int, version: str) -> None:
        """Say that the guidelines are read."""
        answer = self.send("POST", f"/projects/{project}/guidelines/read", {"version": version})
        assert answer.status_code == 204, answer.text

    def submit(self, token: str, body: Any, key: str = "") -> Any:
        return self.send("POST", f"/assignments/{token}/submit", body, Idempotency_Key=key or uuid4().hex)
