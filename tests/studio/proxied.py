"""A proxy as people put before the studio: under a path of its own, which it hands on whole or takes off, and with the name it likes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "host", "content-encoding")


@contextmanager
def proxied(target: str, prefix: str, *, port: int, strips: bool, keeps_host: bool) -> Iterator[str]:
    """The address of the studio behind a proxy on that port. What lies outside the prefix is somebody else's: status 418."""
    outside: list[str] = []
    client = httpx.Client(base_url=target, follow_redirects=False, timeout=60)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def pass_on(self) -> None:
            inner = self.path.removeprefix(prefix)
            if not self.path.startswith(prefix) or inner[:1] not in ("/", "?", ""):
                outside.append(self.path)
                self.send_response(418)
                self.end_headers()
                return
            path = (inner if inner.startswith("/") else f"/{inner}") if strips else self.path
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
            if keeps_host:
                headers["host"] = self.headers["host"]
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            answer = client.request(self.command, path, headers=headers, content=body)
            self.send_response(answer.status_code)
            for name, value in answer.headers.multi_items():
                if name not in HOP:
                    self.send_header(name, value)
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_PUT = do_DELETE = pass_on

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}{prefix}"
        assert outside in ([], ["/favicon.ico"]), f"asked for what is somebody else's: {outside}"
    finally:
        server.shutdown()
        server.server_close()
        client.close()
