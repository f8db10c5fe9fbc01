# SPDX-License-Identifier: Apache-2.0
"""A list that is kept up to date: list once, then follow the changes from there.

    LIST ── version ── WATCH ── change, change, bookmark ── it ends ── WATCH from the last version
      ^                                                        └── 410, version too old ──┐
      └───────────────────────────────────────────────────────────────────────────────────┘

Only a version that the API server named is ever asked for, and a change counts when it was handed
over. After a 410 the list is read anew and replaces all that was known.
"""

from __future__ import annotations

import enum
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlencode

import structlog

from harp.errors import DaemonUnreachable, HarpError
from harp.kube.client import ApiServer, Asking, Object, Refused, Stream

__all__ = ["Change", "Follower", "Kind", "Sink", "list_all", "read"]

_log = structlog.get_logger(__name__)
_PAGE = 500
_GONE = 410
#: how long the server may keep a watch; a dead connection is noticed that much and a bit later
_WATCH_S = 60
_SLACK_S = 10.0
_LIST_S = 30.0
_PAUSE_S = 0.2
_PAUSE_MAX_S = 5.0


class Sink(Protocol):
    """Who keeps the objects. Called by one thread."""

    def replace(self, items: Sequence[Object]) -> None:
        """These are all."""
        ...

    def put(self, item: Object) -> None:
        """This one is new, or has changed."""
        ...

    def gone(self, item: Object) -> None:
        """This one is not there any more; as it was at last."""
        ...


class Kind(enum.Enum):
    """What a line of a watch says."""

    PUT = "put"
    GONE = "gone"
    MARK = "mark"  #: nothing but a version
    EXPIRED = "expired"  #: the version is too old: list anew
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Change:
    """One line of a watch, read."""

    kind: Kind
    item: Object
    version: str = ""


_KINDS = {
    "ADDED": Kind.PUT,
    "MODIFIED": Kind.PUT,
    "DELETED": Kind.GONE,
    "BOOKMARK": Kind.MARK,
}


def read(line: Object) -> Change:
    """A line of a watch; what is not understood is an error, and leads to a new list. Pure."""
    item = line.get("object")
    if not isinstance(item, Mapping):
        return Change(Kind.ERROR, {"message": "a change without an object"})
    if line.get("type") == "ERROR":
        expired = item.get("code") == _GONE or item.get("reason") in ("Expired", "Gone")
        return Change(Kind.EXPIRED if expired else Kind.ERROR, item)
    kind = _KINDS.get(str(line.get("type")))
    version = (item.get("metadata") or {}).get("resourceVersion")
    if kind is None or not version:
        return Change(Kind.ERROR, {"message": f"a change of type {line.get('type')!r}"})
    return Change(kind, item, str(version))


class Follower:
    """Keeps a sink up to date. One thread, run(); stop() from another.

    Args:
        api: whom to ask.
        path: of the collection, "/api/v1/pods".
        sink: who keeps the objects.
        wait: pauses so many seconds; true: stop. A test's does not pause.
        clock_s: monotonic.
    """

    def __init__(
        self,
        api: ApiServer,
        path: str,
        sink: Sink,
        *,
        wait: Callable[[float], bool] | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._path = path
        self._clock_s = clock_s
        self._sink = sink
        self._stop = threading.Event()
        self._wait = wait or self._stop.wait
        #: set once the sink has had a whole list
        self.synced = threading.Event()
        #: since when each try has failed; None: the last one got as far as a watch
        self._failing_since_s: float | None = None
        #: guards _stream
        self._lock = threading.Lock()
        self._stream: Stream | None = None

    def follows(self, within_s: float) -> bool:
        """Whether it has had a list, and its tries have not failed for so long."""
        since_s = self._failing_since_s
        good = since_s is None or self._clock_s() < since_s + within_s
        return self.synced.is_set() and good

    def run(self) -> None:
        """Until stop()."""
        version, pause_s = "", _PAUSE_S
        while not self._stop.is_set():
            before = version
            try:
                version = self._once(version)
            except HarpError as error:
                if self._stop.is_set():
                    return
                self._failed()
                _log.warning("watch_failed", path=self._path, reason=error.message)
                if isinstance(error, _Broken):
                    version = error.version
            except Exception:  # noqa: BLE001 - without this thread all decisions would be on old news
                self._failed()
                _log.exception("watch_broken", path=self._path)
                version = ""
            # A watch that ended without a word is asked again after a pause too: no busy loop.
            pause_s = _PAUSE_S if version and version != before else min(pause_s * 2, _PAUSE_MAX_S)
            if self._wait(pause_s * random.uniform(0.8, 1.2)):  # noqa: S311 - so that not all ask at once
                return

    def _failed(self) -> None:
        if self._failing_since_s is None:
            self._failing_since_s = self._clock_s()

    def stop(self) -> None:
        """End run(), also where it waits for a change."""
        self._stop.set()
        with self._lock:
            if self._stream is not None:
                self._stream.close()

    def _once(self, version: str) -> str:
        """List if need be, and follow one watch to its end; the version to go on from."""
        if not version:
            items, version = list_all(self._api, self._path)
            self._sink.replace(items)
            self.synced.set()
            _log.info("listed", path=self._path, items=len(items))
        query = {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_S),
        }
        try:
            with self._api.stream(self._path, query, read_s=_WATCH_S + _SLACK_S) as stream:
                self._failing_since_s = None
                with self._lock:
                    self._stream = stream
                    if self._stop.is_set():
                        return version
                try:
                    return self._follow(map(read, stream), version)
                finally:
                    with self._lock:
                        self._stream = None
        except Refused as error:
            if error.status == _GONE:
                return ""
            raise _Broken(version, error.message) from error

    def _follow(self, changes: Iterable[Change], version: str) -> str:
        failed: Object | None = None
        try:
            for change in changes:
                match change.kind:
                    case Kind.PUT:
                        self._sink.put(change.item)
                    case Kind.GONE:
                        self._sink.gone(change.item)
                    case Kind.EXPIRED:
                        return ""
                    case Kind.ERROR:
                        failed = change.item
                        break
                version = change.version
        except DaemonUnreachable as error:
            raise _Broken(version, error.message) from error
        if failed is not None:
            raise _Broken("", f"watch of {self._path}: {failed.get('message')}")
        return version


class _Broken(DaemonUnreachable):
    """A watch that ended otherwise than it should; go on from `version`."""

    def __init__(self, version: str, message: str) -> None:
        super().__init__(message)
        self.version = version


def list_all(
    api: Asking, path: str, between: Callable[[], None] = lambda: None
) -> tuple[list[Object], str]:
    """All objects as they are now, and the version of that.

    Args:
        api: whom to ask.
        path: of the collection.
        between: called between pages, of which a large cluster has hundreds.

    Raises:
        DaemonUnreachable: no list.
    """
    items: list[Object] = []
    following = ""
    while True:
        query = {"limit": str(_PAGE)} | ({"continue": following} if following else {})
        answer = api.ask("GET", f"{path}?{urlencode(query)}", timeout_s=_LIST_S)
        if not answer.good:
            raise DaemonUnreachable(
                f"the API server answers {answer.why} to a list of {path}",
                "let the service account list and watch it",
            )
        items += answer.body.get("items") or ()
        meta = answer.body.get("metadata") or {}
        following = meta.get("continue") or ""
        if not following:
            version = str(meta.get("resourceVersion") or "")
            if not version:
                raise DaemonUnreachable(f"a list of {path} without a version")
            return items, version
        between()
