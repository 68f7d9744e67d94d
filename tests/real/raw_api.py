"""An Anon API that says what it is given, byte for byte: bodies that no JSON encoder of ours would write."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from uuid import uuid4

from loopback import LOOPBACK

if TYPE_CHECKING:
    from typing_extensions import Self

UNAVAILABLE = ""
TOKEN = "let-me-in"


class RawApi:
    """Serves on loopback while the ``with`` block lasts."""

    def __init__(self) -> None:
        self.polls: Counter[str] = Counter()
        self._bodies: dict[str, list[bytes]] = {}
        self._lock = threading.Lock()
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = api.poll(self.path.rpartition("/")[2])
                if self.headers["Authorization"] != f"Bearer {TOKEN}":
                    self.send_error(401)
                elif body is None:
                    self.send_error(404)
                elif not body:
                    self.send_error(503)
                else:
                    self.send_response(200)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._server.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def create_run(self, *bodies: str, run_id: str | None = None) -> str:
        """
        Serve a run, and return its id.

        :param bodies: what each poll sees, with ``ID`` for the id; the last holds for ever, an empty one is a 503.
        :param run_id: its id, which is made up if it does not matter.
        """
        run_id = run_id or str(uuid4())
        with self._lock:
            self._bodies[run_id] = [body.replace("ID", run_id).encode() for body in bodies]
        return run_id

    def go_on_with(self, run_id: str, body: str) -> None:
        """Let each further poll of a run see this."""
        with self._lock:
            self._bodies[run_id] = [body.replace("ID", run_id).encode()]

    def connection(self) -> str:
        """Return the Airflow connection to it."""
        host, port = self._server.server_address[:2]
        return json.dumps(
            {"conn_type": "anon", "host": f"http://{host}", "port": port, "password": TOKEN}, default=str
        )

    def poll(self, run_id: str) -> bytes | None:
        """Return what the next poll sees, and go on."""
        with self._lock:
            self.polls[run_id] += 1
            bodies = self._bodies.get(run_id)
            if bodies is None:
                return None
            return bodies.pop(0) if len(bodies) > 1 else bodies[0]
