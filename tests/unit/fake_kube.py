# SPDX-License-Identifier: Apache-2.0
"""An API server as far as the extender needs one: in memory, and over HTTP on the loopback.

Kept to what the real one (1.20) does: bindings merge their annotations and are refused for pods
that are bound (409), gone (404) or another one by uid (409); updates of a lease name the version
that was read (409); a watch from before `compact()` gets 410 within the stream. Kubelet begins with
a pod as soon as it is bound (`kubelet`), or when a test says so.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from harp.errors import DaemonUnreachable
from harp.kube.client import Answer

Body = dict[str, Any]
PODS, NODES = "/api/v1/pods", "/api/v1/nodes"


def node(
    name: str, gpus: int = 2, ill: int = 0, annotations: Mapping[str, str] | None = None
) -> Body:
    return {
        "metadata": {"name": name, "annotations": dict(annotations or {})},
        "status": {
            "capacity": {"harp.dev/gpu-share": str(100 * gpus), "cpu": "64", "memory": "256Gi"},
            "allocatable": {
                "harp.dev/gpu-share": str(100 * (gpus - ill)),
                "cpu": "64",
                "memory": "256Gi",
            },
        },
    }


def container(name: str, share: int = 0, **more: Any) -> Body:
    limits = {"harp.dev/gpu-share": str(share)} if share else {}
    return {"name": name, "resources": {"limits": limits, "requests": limits}} | more


def pod(
    name: str,
    *shares: int,
    on: str = "",
    gpu: str = "",
    uid: str = "",
    init: tuple[Body, ...] = (),
    phase: str = "Pending",
    begun: bool | None = None,
) -> Body:
    """A pod; one that is bound has begun, if nothing else is said."""
    begun = bool(on) if begun is None else begun
    return {
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": uid or f"uid-{name}",
            "annotations": {"harp.dev/gpu": gpu} if gpu else {},
        },
        "spec": {
            "containers": [container(f"c{at}", share) for at, share in enumerate(shares)],
            "initContainers": list(init),
        }
        | ({"nodeName": on} if on else {}),
        "status": {"phase": phase} | ({"startTime": stamp(0)} if begun else {}),
    }


def stamp(now_s: float) -> str:
    """As the API server writes times."""
    return datetime.fromtimestamp(int(now_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class FakeKube:
    """Objects by path, and the changes of them."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.version = 1
        self.oldest = 0
        self.objects: dict[str, Body] = {}
        self.kubelet = True
        self.now_s = 0.0  #: of what is written as times
        self.log: list[tuple[int, str, str, Body]] = []  #: version, type, collection, object
        self.calls: list[tuple[str, str]] = []
        #: before a call is worked on: a status to answer with instead, or it raises
        self.hook: Callable[[str, str], int | None] = lambda _method, _path: None
        #: after it was done: raises, and the answer is lost
        self.after: Callable[[str, str], None] = lambda _method, _path: None

    def put(self, body: Body) -> None:
        """Create or change a node or pod, as somebody else would."""
        with self.changed:
            path = _path_of(body)
            self._write(path, body, "MODIFIED" if path in self.objects else "ADDED")

    def begin(self, body: Body) -> None:
        """Kubelet has begun with a pod."""
        with self.changed:
            there = copy.deepcopy(self.objects[_path_of(body)])
            there["status"]["startTime"] = stamp(self.now_s)
            there["status"].setdefault("conditions", [self._scheduled()])
            self._write(_path_of(body), there, "MODIFIED")

    def fail(self, body: Body) -> None:
        """Kubelet has no slots for it."""
        with self.changed:
            there = copy.deepcopy(self.objects[_path_of(body)])
            there["status"] |= {"phase": "Failed", "reason": "UnexpectedAdmissionError"}
            there["status"]["startTime"] = stamp(self.now_s)
            self._write(_path_of(body), there, "MODIFIED")

    def remove(self, body: Body) -> None:
        with self.changed:
            gone = self.objects.pop(_path_of(body))
            self._log("DELETED", _path_of(body), gone)

    def compact(self) -> None:
        """Forget what changed; watches from before get 410."""
        with self.changed:
            self.oldest, self.log = self.version, []

    def pods(self) -> list[Body]:
        """As they are; not to be changed."""
        return [one for path, one in self.objects.items() if "/pods/" in path]

    def ask(self, method: str, path: str, body: object = None, *, timeout_s: float = 5.0) -> Answer:
        assert timeout_s > 0
        self.calls.append((method, path))
        status = self.hook(method, path)
        with self.changed:
            answer = _status(status, "as told") if status else self._answer(method, path, body)
        self.after(method, path)
        return answer

    def changes(self, collection: str, since: int) -> list[Body]:
        """Lines of a watch that are there now."""
        with self.changed:
            if since < self.oldest:
                return [{"type": "ERROR", "object": {"code": 410, "message": "too old"}}]
            return [
                {"type": kind, "object": one}
                for version, kind, where, one in self.log
                if version > since and where == collection
            ]

    def _answer(self, method: str, path: str, body: Any) -> Answer:
        url = urlsplit(path)
        if method == "GET" and url.path in (PODS, NODES):
            return self._list(url.path, parse_qs(url.query))
        there = self.objects.get(url.path)
        if method == "GET":
            return Answer(200, there) if there else _status(404, "not found")
        if url.path.endswith("/binding"):
            return self._bind(url.path.removesuffix("/binding"), body)
        if method == "POST":
            path = f"{url.path}/{body['metadata']['name']}"
            if path in self.objects:
                return _status(409, "exists")
            return Answer(201, self._write(path, body, "ADDED"))
        if there is None:
            return _status(404, "not found")
        if method == "PATCH":
            merged = copy.deepcopy(there)
            merged["metadata"].setdefault("annotations", {}).update(body["metadata"]["annotations"])
            return Answer(200, self._write(url.path, merged, "MODIFIED"))
        if body["metadata"].get("resourceVersion") != there["metadata"]["resourceVersion"]:
            return _status(409, "the object has been modified")
        return Answer(200, self._write(url.path, body, "MODIFIED"))

    def _bind(self, path: str, body: Any) -> Answer:
        there = self.objects.get(path)
        if there is None:
            return _status(404, "pod not found")
        if body["metadata"]["uid"] not in ("", there["metadata"]["uid"]):
            return _status(409, "the UID in the precondition does not match")
        if there["spec"].get("nodeName"):
            return _status(409, f"pod is already assigned to node {there['spec']['nodeName']}")
        changed = copy.deepcopy(there)
        changed["spec"]["nodeName"] = body["target"]["name"]
        changed["metadata"]["annotations"] |= body["metadata"].get("annotations") or {}
        changed["status"]["conditions"] = [self._scheduled()]
        self._write(path, changed, "MODIFIED")
        if self.kubelet:
            self.begin(changed)
        return Answer(201, {"kind": "Status", "status": "Success"})

    def _scheduled(self) -> Body:
        """Of a pod that came with its node's name kubelet writes it, when it takes it."""
        now = stamp(self.now_s)
        return {"type": "PodScheduled", "status": "True", "lastTransitionTime": now}

    def _list(self, collection: str, query: Mapping[str, list[str]]) -> Answer:
        here = sorted(path for path in self.objects if _collection(path) == collection)
        begin = int(query.get("continue", ["0"])[0])
        end = begin + int(query.get("limit", ["500"])[0])
        meta = {"resourceVersion": str(self.version)}
        if end < len(here):
            meta["continue"] = str(end)
        items = [self.objects[path] for path in here[begin:end]]
        return Answer(200, {"kind": "List", "metadata": meta, "items": items})

    def _write(self, path: str, body: Body, kind: str) -> Body:
        self._log(kind, path, body)
        return self.objects[path]

    def _log(self, kind: str, path: str, body: Body) -> None:
        self.version += 1
        # A copy, since what stands in the log or among the objects is never changed.
        body = copy.deepcopy(body)
        body["metadata"]["resourceVersion"] = str(self.version)
        if kind != "DELETED":
            self.objects[path] = body
        self.log.append((self.version, kind, _collection(path), body))
        self.changed.notify_all()


def _path_of(body: Body) -> str:
    meta = body["metadata"]
    if "namespace" in meta:
        return f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
    return f"{NODES}/{meta['name']}"


def _collection(path: str) -> str:
    if "/pods/" in path:
        return PODS
    return path.rpartition("/")[0]


def _status(code: int, message: str) -> Answer:
    return Answer(code, {"kind": "Status", "code": code, "message": message})


@contextmanager
def served(kube: FakeKube) -> Iterator[str]:
    """The same over HTTP; yields its URL."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            if "watch" in query:
                self._watch(url.path, int(query["resourceVersion"][0]))
            else:
                self._one()

        def _one(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            try:
                answer = kube.ask(self.command, self.path, body)
            except DaemonUnreachable:
                self.close_connection = True
                return
            raw = json.dumps(answer.body).encode()
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_POST = do_PUT = do_PATCH = _one

        def _watch(self, collection: str, since: int) -> None:
            kube.calls.append(("WATCH", f"{collection}@{since}"))
            if status := kube.hook("WATCH", collection):
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            broken = False
            while not ended.is_set() and not broken:
                with kube.changed:
                    lines = kube.changes(collection, since)
                    if not lines:
                        kube.changed.wait(0.05)
                        continue
                for line in lines:
                    since = int(line["object"].get("metadata", {}).get("resourceVersion", since))
                    raw = json.dumps(line).encode() + b"\n"
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(raw), raw))
                    broken = line["type"] == "ERROR"
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: object) -> None:
            pass

    class Listener(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    with Listener(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            ended.set()
            server.shutdown()
            thread.join()
