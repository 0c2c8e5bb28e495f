"""A studio on another machine, from Python: its projects, items, answers and people, over its HTTP API.

    studio = pl.Studio("https://label.example.org", token="pf_...")
    helpful = studio.create_project("Helpful", kind="pair", overlap=2)
    helpful.add(rows)
    comparisons = helpful.export().rows

A request that cannot have been carried out, or that may safely be sent twice, is sent again after a pause. All others fail with `RemoteError`.
"""

import base64
import io
import json
import os
import re
import time
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx

from prefloop.errors import InputError
from prefloop.http import describe_error, retry_after, wait_before
from prefloop.studio.prefix import parsed

TOKEN_VARIABLE = "PREFLOOP_TOKEN"
ATTEMPTS = 5
FIRST_WAIT = 0.5
_NOT_DONE = frozenset({429, 503})
"""The server did not carry the request out and says so: it may be sent again whatever it was."""
_REPEATABLE = frozenset({"GET", "PUT", "DELETE"})
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class RemoteError(InputError):
    """The studio refused a request, or could not be reached."""

    def __init__(self, told: str, *, status: int) -> None:
        super().__init__(told)
        self.status = status
        """HTTP status; 0 if there was no answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was judged, as files in the field's format with their manifests. Chats and plain texts are in separate files."""

    files: Mapping[str, bytes]
    """Name -> JSON lines."""
    manifests: tuple[Mapping[str, Any], ...]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows of all files."""
        return [json.loads(line) for content in self.files.values() for line in content.splitlines()]


class RemoteStudio:
    """A studio by its address. Use it in a `with` block, or close it."""

    def __init__(
        self, url: str, token: str = "", *, timeout: float = 60.0, client: httpx.Client | None = None
    ) -> None:
        """
        Args:
            url: What people type, for example https://label.example.org or https://example.org/label.
            token: Made under Settings in the studio; else the environment variable PREFLOOP_TOKEN. Scopes: `read` to look, `annotate` to judge,
                `admin` for all that an admin or a project's manager does.
            timeout: Seconds for one request.
            client: Your own `httpx.Client`, for a proxy or certificates of your own.

        Raises:
            InputError: An address that cannot be, or no token.
        """
        parts = parsed(url)
        if not parts.hostname:
            raise InputError("url is empty; name the studio's address, for example https://label.example.org")
        secret = token or os.environ.get(TOKEN_VARIABLE, "")
        if not secret:
            raise InputError(
                f"there is no token: make one under Settings in {url}, and give it as token or in the environment variable {TOKEN_VARIABLE}"
            )
        if re.fullmatch(r"[\x21-\x7e]+", secret) is None:
            raise InputError("the token has a space or another character that no token has; copy it again")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            warnings.warn(
                f"{url} has no TLS: the token and all texts cross the network in clear text", stacklevel=2
            )
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {secret}"}
        self._timeout = timeout
        self._client = client or httpx.Client()

    def __repr__(self) -> str:
        return f"RemoteStudio({self.url!r})"  # without the token

    def __enter__(self) -> "RemoteStudio":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # Any request

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """Any request of the API: `studio.call("GET", "/audit", limit=10)`. `/openapi.json` of the studio lists them all.

        Args:
            method: GET, POST, PUT or DELETE.
            path: What follows `/api/v1`.
            body: Values that become JSON, or the bytes of a file.
            query: Parameters; those that are None are left out.

        Returns:
            What the JSON of the answer holds; the text of another; None for none.

        Raises:
            RemoteError: The studio refused it or cannot be reached.
        """
        answer = self.send(method, path, body, query)
        if not answer.content:
            return None
        kind = answer.headers.get("content-type", "")
        return answer.json() if kind.startswith("application/json") else answer.text

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        *,
        key: str = "",
    ) -> httpx.Response:
        """`call` with the whole answer. `key`: the same for every attempt of one answer, so that it counts once."""
        if not path.startswith("/"):
            raise InputError(f"path is {path!r}; begin it with a slash, for example /projects")
        headers = self._headers | ({"Idempotency-Key": key} if key else {})
        content = body if isinstance(body, bytes) else None
        if content is not None:
            headers["Content-Type"] = "application/jsonl"
        repeatable = method in _REPEATABLE or bool(key)
        for attempt in range(1, ATTEMPTS + 1):
            last, asked = attempt == ATTEMPTS, 0.0
            try:
                answer = self._client.request(
                    method,
                    f"{self.url}/api/v1{path}",
                    content=content,
                    json=body if content is None else None,
                    params={name: value for name, value in (query or {}).items() if value is not None},
                    headers=headers,
                    timeout=self._timeout,
                    follow_redirects=False,  # the token is for this address alone
                )
            except httpx.TransportError as error:
                if last or not (repeatable or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)):
                    raise RemoteError(
                        f"{self.url} cannot be reached: {describe_error(error)}", status=0
                    ) from error
            else:
                if answer.is_success:
                    return answer
                if last or answer.status_code not in _NOT_DONE:
                    raise RemoteError(f"{method} {path}: {_told(answer)}", status=answer.status_code)
                asked = retry_after(answer)
            time.sleep(wait_before(attempt, first=FIRST_WAIT, asked=asked))
        raise AssertionError("the last attempt returns or raises")

    # The studio

    def me(self) -> dict[str, Any]:
        """Whose token it is: login, role, scopes."""
        return self.call("GET", "/me")

    def projects(self) -> list["RemoteProject"]:
        """The projects that you belong to."""
        return [RemoteProject(self, found) for found in self.call("GET", "/projects")]

    def project(self, name: str | int) -> "RemoteProject":
        """A project by its name or number."""
        found = self.projects()
        for project in found:
            if name in (project.name, project.id):
                return project
        there = ", ".join(repr(project.name) for project in found) or "none"
        raise InputError(f"{self.url} has no project {name!r} that you belong to; there is {there}")

    def create_project(self, name: str, *, kind: str = "pair", **settings: Any) -> "RemoteProject":
        """A new project without items, for its members. `settings`: overlap, guidelines, allow_tie, render, ... as in the API."""
        return RemoteProject(self, self.call("POST", "/projects", {"name": name, "kind": kind, **settings}))

    def invite(
        self,
        *projects: "RemoteProject | str | int",
        role: str = "annotator",
        uses: int = 1,
        days: int = 7,
        note: str = "",
    ) -> str:
        """A link that lets people into these projects. It is shown only now."""
        ids = [self._number(project) for project in projects]
        body = {"projects": ids, "role": role, "uses": uses, "days": days, "note": note}
        path: str = self.call("POST", "/invitations", body)["path"]
        return self.url.removesuffix(parsed(self.url).path) + path

    def people(self) -> list[dict[str, Any]]:
        """Every account."""
        return self.call("GET", "/people")

    def datasets(self, name: str = "") -> list[dict[str, Any]]:
        """Saved dataset versions, all or those of one name."""
        return self.call("GET", "/datasets", name=name)

    def save_dataset(self, name: str, *, kind: str = "comparisons", **chosen: Any) -> dict[str, Any]:
        """Save what was judged as the next version of a dataset. `chosen`: projects, aggregate, min_agreement, since, ... as in the API."""
        return self.call("POST", "/datasets", {"name": name, "kind": kind, **chosen})

    def _number(self, project: "RemoteProject | str | int") -> int:
        if isinstance(project, int):
            return project
        return (self.project(project) if isinstance(project, str) else project).id


class RemoteProject:
    """One project of a studio."""

    def __init__(self, studio: RemoteStudio, told: Mapping[str, Any]) -> None:
        self._studio = studio
        self.id: int = told["id"]
        self.name: str = told["settings"]["name"]
        self.state: str = told["state"]
        self.settings: Mapping[str, Any] = told["settings"]
        self.progress: Mapping[str, int] = told["progress"]
        """Counts as they were when the project was fetched; `refreshed()` has them anew."""

    def __repr__(self) -> str:
        return f"RemoteProject({self.name!r}, {self.settings['kind']}, {self.state}, {dict(self.progress)})"

    def refreshed(self) -> "RemoteProject":
        """The same as it is now."""
        return RemoteProject(self._studio, self._call("GET", ""))

    def change(self, *, state: str | None = None, **settings: Any) -> "RemoteProject":
        """The project with another state or other settings; what is not named stays."""
        kept = {key: value for key, value in self.refreshed().settings.items() if key not in _SET_ELSEWHERE}
        return RemoteProject(self._studio, self._call("PUT", "", {**kept, **settings, "state": state}))

    # Items

    def add(
        self,
        items: str | Path | Iterable[Mapping[str, Any]],
        *,
        known: str = "",
        columns: Mapping[str, str] | Sequence[str] = (),
        format: str = "",
    ) -> dict[str, int]:
        """Add items to be judged, all of them or none.

        Args:
            items: A file that prefloop reads, or rows (`{"prompt": ..., "chosen": ..., "rejected": ...}`).
            known: `known`, `practice` or `qualification` if the answers are known to be right.
            columns: What other names mean: `{"prompt": "instruction"}`, or `["prompt=instruction"]`.
            format: A format of docs/data.md; detected if it is left out.

        Returns:
            How many rows were read and items made, and how many of them are new.
        """
        name, content = _file(items)
        named = columns if not isinstance(columns, Mapping) else [f"{to}={of}" for to, of in columns.items()]
        query = {"name": name, "as": known or "work", "format": format, "columns": ",".join(named)}
        return self._studio.send("POST", f"/projects/{self.id}/import", content, query).json()

    def find(self, **wanted: Any) -> Iterator[dict[str, Any]]:
        """Items, the newest first: `find(text="tea", divided=True, state="done")`."""
        before: int | None = None
        while found := self._call("POST", "/items/find", wanted, before=before):
            yield from found
            before = found[-1]["task"]

    def act(self, action: str, items: Iterable[int], *, value: str = "") -> int:
        """Do something with items, by their `task`: archive, restore, requeue, priority, overlap, assign. How many were changed."""
        body = {"action": action, "tasks": list(items), "value": value}
        return self._call("POST", "/items/actions", body)["items"]

    # Answers

    def export(self, kind: str = "comparisons", *, adjudicated: bool = False) -> Exported:
        """What was judged: comparisons, rankings, labels, scores or demonstrations."""
        query = {"kind": kind, "adjudicated": adjudicated}
        answer = self._studio.send("GET", f"/projects/{self.id}/export", None, query)
        told = json.loads(base64.b64decode(answer.headers["X-Prefloop-Manifest"]))
        manifests = tuple(told if isinstance(told, list) else [told])
        if len(manifests) == 1:
            return Exported(files={manifests[0]["file"]: answer.content}, manifests=manifests)
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            files = {manifest["file"]: archive.read(manifest["file"]) for manifest in manifests}
        return Exported(files=files, manifests=manifests)

    def answers(self, kind: str = "answers", *, labels: Iterable[str] = ()) -> list[dict[str, Any]]:
        """Answers to further questions: `answers` by judgement, `spans` by reply, or `steps` by reply."""
        query = {"kind": kind, "label": list(labels)}
        answer = self._studio.send("GET", f"/projects/{self.id}/answers", None, query)
        return [json.loads(line) for line in answer.content.splitlines()]

    # Questions and people

    def questions(self) -> list[dict[str, Any]]:
        """The further questions."""
        return self._call("GET", "/questions")["questions"]

    def set_questions(self, questions: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Set the further questions."""
        return self._call("PUT", "/questions", {"questions": [dict(question) for question in questions]})[
            "questions"
        ]

    def members(self) -> list[dict[str, Any]]:
        """Who belongs to it."""
        return self._call("GET", "/members")

    def set_member(self, login: str, role: str = "annotator") -> None:
        """Make somebody a member, or give them another role."""
        self._call("PUT", "/members", {"login": login, "role": role})

    def studies(self) -> list[dict[str, Any]]:
        """Its links for recruiting platforms, and how many came by each."""
        return self._call("GET", "/studies")

    def recruit(self, platform: str, *, places: int, code: str = "") -> dict[str, Any]:
        """A link for `prolific` or `mturk` that takes so many people."""
        return self._call("POST", "/studies", {"platform": platform, "places": places, "code": code})

    def change_study(self, study: int, *, open: bool | None = None, places: int | None = None) -> None:
        """Close a link, open it again, or let it take more people."""
        self._call("PATCH", f"/studies/{study}", {"open": open, "places": places})

    def participants(self, study: int) -> list[dict[str, Any]]:
        """Who came by a link, with the codes of those who are done."""
        return self._call("GET", f"/studies/{study}/participants")

    def people(self) -> list[dict[str, Any]]:
        """Who works in it, and how well, with intervals."""
        return self._call("GET", "/people")

    # Work

    def next(self) -> dict[str, Any] | None:
        """The next item for you to judge, or None. Guidelines that you have not read are an error that shows them."""
        told = self._studio.call("POST", "/assignments/next", {"project": self.id})
        if unread := told["guidelines"]:
            raise InputError(
                f"read the guidelines of {self.name!r} first, then call read_guidelines({unread['version']!r}):\n{unread['html']}"
            )
        return told["assignment"]

    def read_guidelines(self, version: str) -> None:
        """Say that you have read the guidelines in this version."""
        self._call("POST", "/guidelines/read", {"version": version})

    def submit(self, assignment: Mapping[str, Any], choice: str, **answer: Any) -> dict[str, Any]:
        """Answer an item of `next`: `submit(item, "first", strength=2)`. Sent again after a lost connection, it counts once."""
        return self._answer(assignment, "submit", {"choice": choice, **answer})

    def skip(self, assignment: Mapping[str, Any], reason: str = "") -> dict[str, Any]:
        """Pass over an item of `next`."""
        return self._answer(assignment, "skip", {"reason": reason})

    def _answer(self, assignment: Mapping[str, Any], what: str, body: Mapping[str, Any]) -> dict[str, Any]:
        path = f"/assignments/{quote(assignment['token'], safe='')}/{what}"
        return self._studio.send("POST", path, body, key=uuid4().hex).json()

    def _call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        return self._studio.call(method, f"/projects/{self.id}{path}", body, **query)


_SET_ELSEWHERE = ("questions", "suggest_from", "suggest_share")
"""Settings that have a request of their own."""


def _told(answer: httpx.Response) -> str:
    """Why a request failed, in the server's words."""
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = " ".join(answer.text.split())[:200] or "no reason given"
    return f"{detail} (HTTP {answer.status_code})"


def _file(items: str | Path | Iterable[Mapping[str, Any]]) -> tuple[str, bytes]:
    """Name and content to send. A name is cut to what the API takes; its ending stays."""
    if isinstance(items, str | Path):
        path = Path(items)
        try:
            return re.sub(r"[^\w. -]", "_", path.name)[-100:], path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    lines = []
    for number, row in enumerate(items, 1):
        if not isinstance(row, Mapping):
            raise InputError(
                f"row {number} is {type(row).__name__}, not a dict; of a frame, give frame.to_dict('records')"
            )
        lines.append(json.dumps(dict(row), ensure_ascii=False))
    if not lines:
        raise InputError("there are no rows to add")
    return "rows.jsonl", "\n".join(lines).encode()
