# SPDX-License-Identifier: Apache-2.0
"""What kube-scheduler calls, over HTTP: POST /filter, /prioritize, /bind; and GET for others.

| call | in | out |
|---|---|---|
| filter | Pod, Nodes or NodeNames | the same, FailedNodes, FailedAndUnresolvableNodes, Error |
| prioritize | as filter | [{Host, Score}] |
| bind | PodName, PodNamespace, PodUID, Node | Error |

kube-scheduler sends names where its config says nodeCacheCapable, else whole nodes; it gets back
the same kind. Whole nodes are large: such bodies are worked on one at a time. Field names are Go's,
read without regard to case, as Go reads them: kube-scheduler before 1.17 wrote them small. An
answer of 200 with Error makes it try the pod again; other answers do too, but their text is not
shown.

Source: kube-scheduler's extender/v1/types.go, pkg/scheduler/extender.go.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import structlog

from harp.errors import ConfigError
from harp.extender.calls import BadRequestError, Extender, UnreadyError
from harp.kube.client import Object

__all__ = ["BODY_MAX", "BODY_SMALL", "CONNECTIONS_MAX", "Server", "Tls"]

_log = structlog.get_logger(__name__)
#: names of 10,000 nodes and the largest pod there can be
BODY_SMALL = 4 << 20
#: 5,000 whole nodes of 16 KiB; one that lists 50 images is 8 to 12 KiB
BODY_MAX = 80 << 20
#: until the one before has been worked on; kube-scheduler asks for one pod after the other
_LARGE_S = 10.0
_BODY_READ_ONLY_MAX = 1 << 10
#: each is a thread; kube-scheduler has one for its filters, and one for each pod being bound, of
#: which some hundred may wait for others to begin (waiting.py)
CONNECTIONS_MAX = 512
#: kube-scheduler keeps connections; one that says nothing for so long is closed
_IDLE_S = 60.0
#: one that has not begun, be it the handshake; who asks at all asks at once
_FIRST_S = 5.0


@dataclass(frozen=True, slots=True)
class Tls:
    """HTTPS, all in PEM."""

    certificate: Path
    key: Path
    clients: Path | None = None  #: who signs those that may call; None: anybody may


class Server:
    """HTTP, or HTTPS. serve() until stop().

    Args:
        extender: who answers.
        host: where to listen, and the port; 0: any.
        tls: None: plain HTTP.
        read_only: GET alone.
        connections_max: at once; more are hung up on.

    Raises:
        ConfigError: the address is not free, or the certificate is not good; or others than this
            machine could call, and callers need no certificate.
    """

    def __init__(
        self,
        extender: Extender,
        host: str,
        port: int,
        *,
        tls: Tls | None = None,
        read_only: bool = False,
        body_max: int = BODY_MAX,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        if not read_only and not _is_loopback(host) and (tls is None or tls.clients is None):
            raise ConfigError(
                f"whoever reaches {host}:{port} could bind pods",
                "give --tls-cert, --tls-key and --tls-client-ca, and kube-scheduler a certificate"
                " of that authority (certFile and keyFile of its tlsConfig); or listen on"
                " 127.0.0.1",
            )
        # Where nothing is called, nobody has a body to read, though one is answered properly.
        body_max = min(body_max, _BODY_READ_ONLY_MAX) if read_only else body_max
        large = threading.Semaphore()
        its = {"extender": extender, "body_max": body_max, "read_only": read_only, "large": large}
        handler = type("_Bound", (_Handler,), its)
        certificates = _Certificates(tls) if tls else None
        try:
            self._http = _Listener((host, port), handler, connections_max, certificates)
        except OSError as error:
            raise ConfigError(
                f"cannot listen at {host}:{port}: {error}", "choose another HOST:PORT"
            ) from error

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._http.server_address[1])

    def serve(self) -> None:
        """Until stop()."""
        with self._http:
            self._http.serve_forever(poll_interval=0.1)

    def stop(self) -> None:
        """End serve(), from another thread."""
        self._http.shutdown()


def _is_loopback(host: str) -> bool:
    """Whether this machine alone comes there; other names are not looked up: they may change."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        if tls.clients is not None:
            context.load_verify_locations(tls.clients)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the certificate {tls.certificate}, its key or {tls.clients} cannot be used: {error}",
            "give PEM files with --tls-cert, --tls-key and --tls-client-ca",
        ) from error
    return context


class _Certificates:
    """HTTPS by the files as they are now: who renews certificates starts nothing again.

    Args:
        tls: the files.

    Raises:
        ConfigError: they cannot be used.
    """

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._seen = self._look()
        self._context = _context(tls)

    def now(self) -> ssl.SSLContext:
        """By the newest files that can be used."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                self._context = _context(self._tls)
                _log.info("certificates_renewed")
            except ConfigError as error:
                _log.warning("certificates_not_renewed", reason=error.message)
        return self._context

    def _look(self) -> list[tuple[int, int] | None]:
        found: list[tuple[int, int] | None] = []
        for path in (self._tls.certificate, self._tls.key, self._tls.clients):
            try:
                now = path.stat() if path else None
            except OSError:
                now = None
            found.append((now.st_ino, now.st_mtime_ns) if now else None)
        return found


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[BaseHTTPRequestHandler],
        connections_max: int,
        certificates: _Certificates | None,
    ) -> None:
        self._certificates = certificates
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._free = threading.Semaphore(connections_max)
        super().__init__(address, handler)

    def get_request(self) -> tuple[Any, Any]:
        """The next connection, by the certificates of this moment."""
        request, client = super().get_request()
        if self._certificates is None:
            return request, client
        # The handshake is done where the request is read: a silent client holds up nobody.
        context = self._certificates.now()
        return context.wrap_socket(request, server_side=True, do_handshake_on_connect=False), client

    def process_request(self, request: Any, client_address: Any) -> None:
        """Its thread, if there may be one more. Nobody waits here: stop() would wait too."""
        if not self._free.acquire(blocking=False):
            _log.warning("too_many_connections", client=str(client_address))
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """To the end of the connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def server_bind(self) -> None:
        """Without its parent's look at DNS, which may take long and whose answer nobody reads."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - theirs
        """A connection that broke off is no error of ours."""
        _log.debug("connection_ended", client=str(client_address))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "harp-extender"
    sys_version = ""
    timeout = _FIRST_S
    wbufsize = -1  #: an answer goes out in one piece: two would wait for each other's receipt
    disable_nagle_algorithm = True
    extender: ClassVar[Extender]
    body_max: ClassVar[int]
    read_only: ClassVar[bool]
    large: ClassVar[threading.Semaphore]  #: who has it works on a large body

    def do_GET(self) -> None:
        """Probes and Prometheus."""
        self.connection.settimeout(_IDLE_S)
        match self.path.partition("?")[0]:
            case "/healthz":
                self._say(HTTPStatus.OK, "ok")
            case "/readyz":
                lack = self.extender.lack
                status = HTTPStatus.SERVICE_UNAVAILABLE if lack else HTTPStatus.OK
                self._say(status, lack or "ok")
            case "/metrics":
                body, kind = self.extender.meter.page(self.headers.get("Accept", ""))
                self._say(HTTPStatus.OK, body, kind)
            case _:
                self._say(HTTPStatus.NOT_FOUND, "GET /healthz, /readyz or /metrics")

    def do_POST(self) -> None:
        """The three calls."""
        self.connection.settimeout(_IDLE_S)
        name = self.path.partition("?")[0].removeprefix("/")
        try:
            length = self._length()
            with self._turn() if length > BODY_SMALL else contextlib.nullcontext():
                raw = json.dumps(self._called(name, self._body(length))).encode()
        except UnreadyError as error:
            self.close_connection = True
            # An error of prioritize is a status: its answer is a list.
            listed = name == "prioritize"
            status = HTTPStatus.SERVICE_UNAVAILABLE if listed else HTTPStatus.OK
            self._say(status, {"Error": str(error)})
        except BadRequestError as error:
            _log.warning("bad_request", path=self.path, reason=str(error))
            self._say(error.status, {"Error": str(error)})
        except Exception:  # noqa: BLE001 - kube-scheduler tries again, others are served
            _log.exception("call_broken", path=self.path)
            self._say(HTTPStatus.INTERNAL_SERVER_ERROR, {"Error": "internal error; see the log"})
        else:
            self._say(HTTPStatus.OK, raw, "application/json")

    def _called(self, name: str, body: Object) -> object:
        extender = self.extender
        calls: dict[str, Callable[[Object], object]] = {
            "filter": extender.filter,
            "prioritize": extender.prioritize,
            "bind": lambda asked: extender.bind(asked, self._gone),
        }
        call = None if self.read_only else calls.get(name)
        if call is None:
            raise BadRequestError("POST /filter, /prioritize or /bind", HTTPStatus.NOT_FOUND)
        with extender.meter.timed(name):
            return call(body)

    def _gone(self) -> bool:
        """Whether the caller has hung up: it says nothing before it has its answer."""
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        return bool(poll.poll(0))

    def _length(self) -> int:
        """Of the body, which is not too long."""
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            self.close_connection = True  # where its body ends is not known
            raise BadRequestError("Content-Length is missing", HTTPStatus.LENGTH_REQUIRED)
        if int(length) > self.body_max:
            self.close_connection = True
            raise BadRequestError(
                f"a body of {length} bytes; {self.body_max} at most; remedy: nodeCacheCapable: true"
                " in kube-scheduler's configuration, so that it sends names of nodes alone",
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
        return int(length)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """A large body takes a multiple of its size in memory: one at a time."""
        if not self.large.acquire(timeout=_LARGE_S):
            self.close_connection = True
            raise BadRequestError(
                "another large body is worked on; remedy: nodeCacheCapable: true in"
                " kube-scheduler's configuration",
                HTTPStatus.SERVICE_UNAVAILABLE,
            )
        try:
            yield
        finally:
            self.large.release()

    def _body(self, length: int) -> Object:
        raw = self.rfile.read(length)
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise BadRequestError(f"the body is no JSON: {error}") from error
        if not isinstance(body, dict):
            raise BadRequestError("the body is no JSON object")
        return body

    def _say(self, status: HTTPStatus, answer: object, kind: str = "") -> None:
        if isinstance(answer, bytes):
            raw = answer
        elif isinstance(answer, str):
            raw, kind = answer.encode(), "text/plain"
        else:
            raw, kind = json.dumps(answer).encode(), "application/json"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - theirs
        """Not to stderr."""
        _log.debug("request", line=format % args)
