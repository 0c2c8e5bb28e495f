"""A hub on loopback that serves the folders it is given, by the part of the hub's protocol that its clients use to read."""

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
_ABOUT = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/[^/]+)?$")
_TREE = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/tree/[^/]+(?:/(.*))?$")
_PATHS = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/paths-info/[^/]+$")
_FILE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)$")


@contextmanager
def hub(repositories: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Serve `models/OWNER/NAME` and `datasets/OWNER/NAME`; the address, and the files that are fetched as they are fetched."""
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if found := _ABOUT.match(path):
                self._about(*found.groups())
            elif found := _TREE.match(path):
                self._tree(*found.groups())
            elif found := _FILE.match(path):
                self._file(found[1] or "models", found[2], found[3])
            else:
                self._missing("RepoNotFound")

        do_HEAD = do_GET

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            found = _PATHS.match(unquote(urlsplit(self.path).path))
            if not found:
                return self._missing("RepoNotFound")
            try:
                wanted = json.loads(body)["paths"]
            except json.JSONDecodeError:
                wanted = re.findall(r"paths=([^&]+)", unquote(body))
            return self._json([each for each in entries(found[1], found[2]) if each["path"] in wanted])

        def _about(self, kind: str, name: str) -> None:
            if f"{kind}/{name}" not in repositories:
                return self._missing("RepoNotFound")
            siblings = [{"rfilename": each["path"]} for each in files(kind, name)]
            return self._json({"id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings})

        def _tree(self, kind: str, name: str, inside: str | None) -> None:
            prefix = f"{inside}/" if inside else ""
            below = [each for each in entries(kind, name) if each["path"].startswith(prefix)]
            if not below:
                return self._missing("EntryNotFound")
            if "recursive=true" not in self.path.lower():
                below = [each for each in below if "/" not in each["path"][len(prefix) :]]
            return self._json(below)

        def _file(self, kind: str, name: str, path: str) -> None:
            root = repositories.get(f"{kind}/{name}")
            if root is None:
                return self._missing("RepoNotFound")
            if not (root / path).is_file():
                return self._missing("EntryNotFound")
            content = (root / path).read_bytes()
            if self.command == "GET":
                fetched.append(f"{kind}/{name}/{path}")
            return self._send(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"')

        def _json(self, value: Any) -> None:
            self._send(200, json.dumps(value).encode())

        def _missing(self, code: str) -> None:
            self._send(404, b"{}", **{"X-Error-Code": code, "X-Error-Message": "not here"})

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

    def files(kind: str, name: str) -> list[dict[str, Any]]:
        root = repositories.get(f"{kind}/{name}")
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

    def entries(kind: str, name: str) -> list[dict[str, Any]]:
        found = files(kind, name)
        folders = {str(parent) for each in found for parent in Path(each["path"]).parents} - {"."}
        return [{"type": "directory", "path": each, "oid": "0" * 40} for each in sorted(folders)] + found

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        server.server_close()
