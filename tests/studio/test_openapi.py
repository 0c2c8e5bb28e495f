"""The API against its own description: whatever is sent, no answer is a fault of the server, and nothing is told to strangers."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings

from prefloop.studio import accounts
from prefloop.studio.app import make_app
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings
from tests.studio.web import PASSWORD, client_of

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

LIMITS: dict[str, tuple[int, float]] = dict.fromkeys(("answers", "tokens", "links", "sign in"), (10**6, 60.0))


@schemathesis.serializer("application/jsonl")
def json_lines(context: Any, value: Any) -> bytes:
    """An uploaded file is sent as it is drawn."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@pytest.fixture
def stranger(studio: Studio) -> TestClient:
    project = studio.create_project(ProjectSettings(name="Compare"))
    studio.add_tasks(project.id, studio.store.add_pairs().ids)
    return client_of(studio, limits=LIMITS)


def routes(stranger: TestClient) -> list[tuple[str, str]]:
    """Every method and path of the API."""
    paths = stranger.get("/openapi.json").json()["paths"]
    return [
        (method.upper(), path)
        for path, methods in paths.items()
        for method in methods
        if path.startswith("/api/")
    ]


def test_every_route_asks_who_is_there(stranger: TestClient) -> None:
    found = routes(stranger)
    assert len(found) > 20
    for method, path in found:
        place = path.format(token="x" * 22, id=1, person=1, task=1, study=1)
        for headers in ({}, {"Authorization": "Bearer pf_no"}, {"Cookie": "prefloop_session=no"}):
            answer = stranger.request(
                method, place, json={}, headers={"Idempotency-Key": "12345678", **headers}
            )
            assert answer.status_code == 401, (method, path, answer.text)


def test_every_change_by_a_browser_needs_the_csrf_token(studio: Studio, stranger: TestClient) -> None:
    who = accounts.add_person(studio, "boss", PASSWORD, "admin")
    cookie = accounts.open_session(studio, who.account)
    for method, path in routes(stranger):
        if method == "GET":
            continue
        place = path.format(token="x" * 22, id=1, person=1, task=1, study=1)
        headers = {"Idempotency-Key": "12345678", "Cookie": f"prefloop_session={cookie}"}
        assert stranger.request(method, place, json={}, headers=headers).status_code == 403, (method, path)


def test_no_request_that_the_description_allows_breaks_the_server(
    studio: Studio, stranger: TestClient
) -> None:
    who = accounts.add_person(studio, "boss", PASSWORD, "admin")
    token = accounts.new_token(studio, who, "all", ["read", "annotate", "admin"])
    # Under the name that schemathesis calls it by.
    schema = schemathesis.openapi.from_asgi("/openapi.json", make_app(studio, limits=LIMITS))
    for result in schema.get_all_operations():
        operation = result.ok()
        if not operation.path.startswith("/api/"):
            continue

        def send(case: Any) -> None:
            headers = {"Authorization": f"Bearer {token}"}
            answer = case.call(headers=headers)
            assert answer.status_code < 500, (case.method, case.path, answer.status_code, answer.text)

        make = operation.as_strategy()
        check = settings(
            max_examples=12,
            deadline=None,
            suppress_health_check=[
                HealthCheck.too_slow,
                HealthCheck.data_too_large,
                HealthCheck.filter_too_much,
            ],
        )(given(case=make)(send))
        check()
