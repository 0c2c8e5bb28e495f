"""A hub on loopback that serves the folders it is given, by the part of the hub's protocol that its clients use to read and to upload."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40
MAIN = "main"
TOKEN = "hf_" + "t" * 34
"""What uploads must come with."""
_ABOUT = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/([^/]+))?$")
_TREE = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?$")
_PATHS = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/paths-info/([^/]+)$")
_FILE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")
_BRANCH = re.compile(r"/api/models/([^/]+/[^/]+)/branch/([^/]+)$")
_PREUPLOAD = re.compile(r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)$")
_COMMIT = re.compile(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)$")
_LARGE = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch$")


@contextmanager
def hub(repositories: dict[str, Path], *, uploads: Path | None = None) -> Iterator[tuple[str, list[str]]]:
    """Serve `models/OWNER/NAME`, `datasets/OWNER/NAME` and `models/OWNER/NAME@REVISION`; the address, and what is fetched or made, as it happens.

    With `uploads`, a folder, whoever has `TOKEN` makes repositories and branches there, which are served too.
    """
    fetched: list[str] = []
    large: dict[str, bytes] = {}

    def key(kind: str, name: str, revision: str | None) -> str:
        of_revisions = [each for each in repositories if each.startswith(f"{kind}/{name}@")]
        named = (each for each in of_revisions if revision in (each.partition("@")[2], commit(each)))
        return next(named, f"{kind}/{name}")

    def commit(key: str) -> str:
        return hashlib.sha1(key.encode()).hexdigest() if "@" in key else COMMIT

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if found := _ABOUT.match(path):
                self._about(*found.groups())
            elif found := _TREE.match(path):
                self._tree(*found.groups())
            elif found := _FILE.match(path):
                self._file(found[1] or "models", *found.groups()[1:])
            else:
                self._missing("RepoNotFound")

        do_HEAD = do_GET

        def do_POST(self) -> None:
            body = self._body().decode()
            path = unquote(urlsplit(self.path).path)
            if found := _PATHS.match(path):
                try:
                    wanted = json.loads(body)["paths"]
                except json.JSONDecodeError:
                    wanted = re.findall(r"paths=([^&]+)", unquote(body))
                repository = key(found[1], found[2], found[3])
                return self._json([each for each in entries(repository) if each["path"] in wanted])
            if uploads is None:
                return self._missing("RepoNotFound")
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self._send(401, b"{}", **{"X-Error-Message": "Invalid credentials"})
            if path == "/api/repos/create":
                about = json.loads(body)
                return self._create(f"{about['organization']}/{about['name']}", about.get("visibility"))
            if path == "/api/validate-yaml":
                return self._json({"errors": [], "warnings": []})
            if found := _BRANCH.match(path):
                return self._branch(*found.groups())
            if found := _PREUPLOAD.match(path):
                named = [each["path"] for each in json.loads(body)["files"]]
                modes = ["lfs" if each.endswith(".safetensors") else "regular" for each in named]
                return self._json(
                    {
                        "files": [
                            {"path": each, "uploadMode": mode, "shouldIgnore": False}
                            for each, mode in zip(named, modes, strict=True)
                        ]
                    }
                )
            if _LARGE.match(path):
                return self._json({"objects": [self._upload(each) for each in json.loads(body)["objects"]]})
            if found := _COMMIT.match(path):
                return self._commit(found[1], found[2], [json.loads(line) for line in body.splitlines()])
            return self._missing("RepoNotFound")

        def do_PUT(self) -> None:
            large[self.path.rpartition("/")[2]] = self._body()
            self._send(200, b"{}")

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers["Content-Length"]))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _create(self, name: str, visibility: str | None) -> None:
            assert uploads is not None
            about = {"url": f"{address}/{name}"}
            if f"models/{name}" in repositories:
                return self._send(409, json.dumps(about).encode())
            repositories[f"models/{name}"] = uploads / name / MAIN
            (uploads / name / MAIN).mkdir(parents=True)
            fetched.append(f"created {visibility or 'public'} {name}")
            return self._json(about)

        def _branch(self, name: str, branch: str) -> None:
            assert uploads is not None
            if f"models/{name}@{branch}" in repositories:
                return self._send(409, b"{}")
            repositories[f"models/{name}@{branch}"] = uploads / name / branch
            (uploads / name / branch).mkdir()
            return self._json({})

        def _upload(self, about: dict[str, Any]) -> dict[str, Any]:
            return {**about, "actions": {"upload": {"href": f"{address}/large/{about['oid']}"}}}

        def _commit(self, name: str, revision: str, lines: list[dict[str, Any]]) -> None:
            root = repositories[key("models", name, revision)]
            for line in lines:
                about = line["value"]
                if line["key"] == "file":
                    (root / about["path"]).write_bytes(base64.b64decode(about["content"]))
                elif line["key"] == "lfsFile":
                    (root / about["path"]).write_bytes(large[about["oid"]])
                elif line["key"] == "deletedFile":
                    (root / about["path"]).unlink()
            self._json({"commitUrl": f"{address}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

        def _about(self, kind: str, name: str, revision: str | None) -> None:
            repository = key(kind, name, revision)
            if repository not in repositories:
                return self._missing("RepoNotFound")
            if revision not in (None, MAIN, COMMIT) and repository == f"{kind}/{name}":
                return self._missing("RevisionNotFound")
            siblings = [{"rfilename": each["path"]} for each in files(repository)]
            about = {
                "id": name,
                "sha": commit(repository),
                "private": False,
                "tags": [],
                "siblings": siblings,
            }
            return self._json(about)

        def _tree(self, kind: str, name: str, revision: str, inside: str | None) -> None:
            prefix = f"{inside}/" if inside else ""
            repository = key(kind, name, revision)
            below = [each for each in entries(repository) if each["path"].startswith(prefix)]
            if not below and inside:
                return self._missing("EntryNotFound")
            if "recursive=true" not in self.path.lower():
                below = [each for each in below if "/" not in each["path"][len(prefix) :]]
            return self._json(below)

        def _file(self, kind: str, name: str, revision: str, path: str) -> None:
            repository = key(kind, name, revision)
            root = repositories.get(repository)
            if root is None:
                return self._missing("RepoNotFound")
            if revision not in (MAIN, COMMIT) and repository == f"{kind}/{name}":
                return self._missing("RevisionNotFound")
            if not (root / path).is_file():
                return self._missing("EntryNotFound", commit(repository))
            content = (root / path).read_bytes()
            if self.command == "GET":
                fetched.append(f"{kind}/{name}/{path}")
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self._send(200, content, **{"ETag": etag, "X-Repo-Commit": commit(repository)})

        def _json(self, value: Any) -> None:
            self._send(200, json.dumps(value).encode())

        def _missing(self, code: str, at: str = COMMIT) -> None:
            headers = {"X-Error-Code": code, "X-Error-Message": "not here", "X-Repo-Commit": at}
            self._send(404, b"{}", **headers)

        def _send(self, status: int, content: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {
                "X-Repo-Commit": COMMIT,
                "Content-Type": "application/json",
                **headers,
            }.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None: ...

    def files(repository: str) -> list[dict[str, Any]]:
        root = repositories.get(repository)
        if root is None:
            return []
        return [
            {
                "type": "file",
                "path": str(path.relative_to(root)),
                "size": path.stat().st_size,
                "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
            }
            for path in sorted(root.rglob("*"))
            if path.is_file()
        ]

    def entries(repository: str) -> list[dict[str, Any]]:
        found = files(repository)
        folders = {str(parent) for each in found for parent in Path(each["path"]).parents} - {"."}
        return [{"type": "directory", "path": each, "oid": "0" * 40} for each in sorted(folders)] + found

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield address, fetched
    finally:
        server.shutdown()
        server.server_close()
