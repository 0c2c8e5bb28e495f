"""The HTTP API's description for people to read: what `/openapi.json` says, as a page that loads nothing from elsewhere."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from prefloop.studio.pages import Signed, page
from prefloop.studio.security import root_of

router = APIRouter(include_in_schema=False)
ORDER = (
    "projects",
    "items",
    "questions",
    "datasets",
    "work",
    "chat",
    "members",
    "people",
    "webhooks",
    "start",
)
"""Of the groups; others follow by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """A value of a request or an answer."""

    name: str
    where: str
    """`path`, `query` or `header`; empty for a part of a body."""
    kind: str
    needed: bool
    default: str
    about: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One request of the API."""

    id: str
    method: str
    path: str
    about: str
    parameters: tuple[Field, ...]
    body: tuple[Field, ...]
    body_is: str
    """What a body is that has no fields, such as a file; empty for none."""
    answer: tuple[Field, ...]
    answer_is: str
    command: str
    """An example, to be pasted into a shell."""


@router.get("/api-docs")
def api_page(request: Request, who: Signed) -> Response:
    """The API."""
    base = f"{request.url.scheme}://{request.url.netloc}{root_of(request)}"
    return page(request, "api_docs", who, groups=groups_of(request.app.openapi(), base))


def groups_of(description: Mapping[str, Any], base: str) -> dict[str, list[Operation]]:
    """Operations by their group. `base`: what addresses in examples begin with."""
    found: dict[str, list[Operation]] = {}
    schemas = description.get("components", {}).get("schemas", {})
    for path, methods in description["paths"].items():
        for method, told in methods.items():
            found.setdefault(told["tags"][0], []).append(
                _operation(method.upper(), path, told, schemas, base)
            )
    names = sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    return {name: found[name] for name in names}


def _operation(
    method: str, path: str, told: Mapping[str, Any], schemas: Mapping[str, Any], base: str
) -> Operation:
    parameters = tuple(
        Field(
            name=each["name"],
            where=each["in"],
            kind=_kind(each["schema"]),
            needed=each.get("required", False),
            default=_default(each["schema"]),
            about=each.get("description", ""),
        )
        for each in told.get("parameters", ())
    )
    media, schema = _content(told.get("requestBody", {}))
    body = tuple(_fields(schema, schemas))
    success = next((code for code in told["responses"] if code.startswith("2")), "")
    _, answer = _content(told["responses"].get(success, {}))
    return Operation(
        id=told["operationId"],
        method=method,
        path=path,
        about=told.get("description", ""),
        parameters=parameters,
        body=body,
        body_is="" if body or not media else ("a file" if media != "application/json" else _kind(schema)),
        answer=tuple(_fields(answer, schemas)),
        answer_is=_kind(answer) if answer else ("nothing" if success == "204" else "a file"),
        command=_command(method, f"{base}{path}", parameters, schema, media, schemas),
    )


def _content(part: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Media type and schema of a body; empty for none."""
    for media, told in part.get("content", {}).items():
        return media, told.get("schema", {})
    return "", {}


def _named(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema that a reference names, also as the entry of a list or beside null."""
    if "$ref" in schema:
        return schemas[schema["$ref"].rpartition("/")[2]]
    if schema.get("type") == "array":
        return _named(schema.get("items", {}), schemas)
    for choice in schema.get("anyOf", ()):
        if choice.get("type") != "null":
            return _named(choice, schemas)
    return schema


def _fields(schema: Mapping[str, Any], schemas: Mapping[str, Any], within: str = "") -> Iterator[Field]:
    """The parts of an object, or of each object in a list; after each the parts of what it holds, as `answers.question`."""
    named = _named(schema, schemas)
    needed = named.get("required", ())
    for name, inner in named.get("properties", {}).items():
        yield Field(
            name=f"{within}{name}",
            where="",
            kind=_kind(inner),
            needed=name in needed,
            default=_default(inner),
            about=inner.get("description", ""),
        )
        yield from _fields(inner, schemas, f"{within}{name}.")


def _kind(schema: Mapping[str, Any]) -> str:
    """A type in words."""
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2].removesuffix("In").removesuffix("Out")
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(choice) for choice in schema["anyOf"]))
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_kind(schema['items'])}" if schema.get("items") else "list"
    if kind == "string" and schema.get("format") == "date-time":
        return "time"
    words = {"string": "text", "integer": "whole number", "boolean": "true or false", "null": "null"}
    return f"{words.get(kind, kind)}{_limits(schema)}"


def _limits(schema: Mapping[str, Any]) -> str:
    """How small and large a number, or how long a text, may be."""
    most = schema.get("maximum", schema["exclusiveMaximum"] - 1 if "exclusiveMaximum" in schema else None)
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    if least is not None and most is not None:
        return f", {least:g} to {most:.10g}"
    if "maxLength" in schema:
        return f", {schema['maxLength']} characters at most"
    return ""


def _default(schema: Mapping[str, Any]) -> str:
    """What is taken where nothing is given; empty where that is nothing."""
    value = schema.get("default")
    return "" if value in (None, "", [], {}) else json.dumps(value, ensure_ascii=False)


def _command(
    method: str,
    address: str,
    parameters: tuple[Field, ...],
    schema: Mapping[str, Any],
    media: str,
    schemas: Mapping[str, Any],
) -> str:
    """The request as curl sends it, with what must be given."""
    query = "&".join(
        f"{each.name}={each.name.upper()}" for each in parameters if each.where == "query" and each.needed
    )
    words = ["curl", *([] if method == "GET" else ["-X", method]), "-H 'Authorization: Bearer pf_...'"]
    words += [
        f"-H '{each.name}: {each.name.upper()}'"
        for each in parameters
        if each.where == "header" and each.needed
    ]
    if media == "application/json":
        named = _named(schema, schemas)
        sample = {name: _sample(named["properties"][name]) for name in named.get("required", ())}
        words += ["-H 'Content-Type: application/json'", f"-d '{json.dumps(sample)}'"]
    elif media:
        words += [f"-H 'Content-Type: {media}'", "--data-binary @FILE"]
    return " ".join([*words, f"'{address}{f'?{query}' if query else ''}'"])


def _sample(schema: Mapping[str, Any]) -> Any:
    """A value of a type, to be replaced."""
    if "enum" in schema:
        return schema["enum"][0]
    samples: dict[str, Any] = {"integer": 1, "number": 1, "boolean": True, "array": [], "object": {}}
    return samples.get(schema.get("type", "string"), "...")
