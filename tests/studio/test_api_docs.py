"""The page that describes the API says all that the description says, and loads nothing from elsewhere."""

import html
import itertools
import re
import shlex

import pytest

from prefloop.studio.api_docs import groups_of
from prefloop.studio.service import Studio
from tests.studio.web import Person, client_of


@pytest.fixture
def ann(studio: Studio) -> Person:
    return Person(studio, "ann")


def test_every_request_and_every_field_is_on_the_page(studio: Studio, ann: Person) -> None:
    described = ann.client.get("/openapi.json").json()
    page = ann.client.get("/api-docs").text
    text = html.unescape(re.sub("<[^>]+>", "", page))
    operations = [
        (method.upper(), path, told) for path, by in described["paths"].items() for method, told in by.items()
    ]
    assert len(operations) > 60
    for method, path, told in operations:
        assert f"{method} {path}" in text
        assert " ".join(told["description"].split()) in " ".join(text.split())
        for parameter in told.get("parameters", ()):
            assert f"<code>{parameter['name']}</code>" in page
    for name, schema in described["components"]["schemas"].items():
        if name.endswith("In"):
            for field in schema["properties"]:
                assert re.search(rf"<code>([\w.]+\.)?{field}</code>", page), (name, field)
    assert not re.search(r"""(src|href)\s*=\s*["'](https?:)?//""", page)


def test_a_field_says_its_type_its_default_and_what_it_means(ann: Person) -> None:
    groups = groups_of(ann.client.get("/openapi.json").json(), "https://label.example")
    assert list(groups)[:2] == ["projects", "items"]
    submit = next(each for each in groups["work"] if each.path.endswith("/submit"))
    fields = {field.name: field for field in (*submit.parameters, *submit.body)}
    assert fields["choice"].needed
    assert '"first" | "second"' in fields["choice"].kind
    assert fields["strength"].kind == "whole number, 0 to 10"
    assert (fields["strength"].default, fields["rationale"].default) == ("0", "")
    assert fields["Idempotency-Key"].where == "header"
    assert fields["answers"].kind == "list of QuestionAnswer"
    assert "a better reply" in fields["edited"].about
    assert "state" in {field.name for field in submit.answer}
    sent = next(each for each in groups["projects"] if each.path.endswith("/import"))
    assert sent.body_is == "a file"


def test_an_example_is_a_request_that_the_studio_takes(studio: Studio) -> None:
    boss = Person(studio, "boss", "admin", client=client_of(studio))
    groups = groups_of(boss.client.get("/openapi.json").json(), "http://127.0.0.1:8100")
    make = next(
        each for each in groups["projects"] if (each.method, each.path) == ("POST", "/api/v1/projects")
    )
    words = shlex.split(make.command)
    token = boss.send("POST", "/tokens", {"name": "t", "scopes": ["admin"]}).json()["token"]
    headers = dict(word.split(": ") for flag, word in itertools.pairwise(words) if flag == "-H")
    headers["Authorization"] = headers["Authorization"].replace("pf_...", token)
    answer = boss.client.request(
        words[words.index("-X") + 1], words[-1], content=words[words.index("-d") + 1], headers=headers
    )
    assert answer.status_code == 201, answer.text


def test_strangers_are_asked_to_sign_in(studio: Studio) -> None:
    answer = client_of(studio).get("/api-docs", headers={"accept": "text/html"})
    assert answer.headers["location"] == "/login?next=/api-docs"
