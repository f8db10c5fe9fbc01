# SPDX-License-Identifier: Apache-2.0
"""One look a second for all readers, a look in 5 s while there is none; the stream's readers.

(1) However many read, and however often, the arbiter is asked once a second, and a text is made
    once: who asks all the time costs copies.
(2) Nobody is waited for: a reader that lets `backlog` events lie is dropped. It comes back by
    itself, says what it saw last, and is told what it missed.
(3) An arbiter that does not answer is said; what is shown then is its last answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import structlog

from harp.api.v1 import control_pb2 as pb
from harp.errors import HarpError
from harp.metrics import EstimatorSeen
from harp.web.samples import KEEP, Bounds, Sample, State, step
from harp.web.state import (
    Json,
    estimates_json,
    sample_json,
    series_json,
    spans_json,
    state_json,
)

__all__ = ["Feed", "Reader"]

_log = structlog.get_logger(__name__)
_PERIOD_S = 1.0
#: who comes finds what was before, less finely; and who asked is thought to ask again for so long
_IDLE_S = 5.0
_READERS = 16
_BACKLOG = 8
#: a reader whose connection ended comes back after this
_RETRY_MS = 2000

Look = Callable[[], Awaitable[pb.GetStateReply]]


class Reader:
    """One reader of the stream: an iterator of events that ends when it is dropped."""

    def __init__(self, backlog: int, closed: Callable[[Reader], None]) -> None:
        #: None: the end
        self._events: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._backlog = backlog
        self._closed = closed
        self._dropped = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        event = None if self._dropped else await self._events.get()
        if event is None:
            raise StopAsyncIteration
        return event

    def put(self, event: bytes) -> None:
        """One more event, or its end."""
        if self._events.qsize() >= self._backlog:
            _log.info("web_reader_dropped", backlog=self._backlog)
            self.close()
        else:
            self._events.put_nowait(event)

    def close(self) -> None:
        """It reads no more, and is told no more."""
        self._dropped = True
        self._events.put_nowait(None)
        self._closed(self)


class Feed:
    """Samples and state of one harpd.

    Args:
        look: what GetState answers.
        estimates: what the estimator has come to.
        about: more of the state that does not change: version, node.
        bounds: how much is kept.
        period_s: between two looks.
        idle_s: the same while nobody reads.
        readers: most at once.
        backlog: events that a reader may let lie.
        clock: the steady one.
    """

    def __init__(
        self,
        look: Look,
        estimates: Callable[[], EstimatorSeen],
        about: Json,
        *,
        bounds: Bounds = KEEP,
        period_s: float = _PERIOD_S,
        idle_s: float = _IDLE_S,
        readers: int = _READERS,
        backlog: int = _BACKLOG,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._estimates = estimates
        #: told apart from the feed of a harpd before, whose numbers were others
        self._about = {**about, "epoch": secrets.token_hex(8), "period_s": period_s}
        self._period_s = period_s
        self._idle_s = idle_s
        self._most = readers
        self._backlog = backlog
        self._clock = clock
        self._kept = State(bounds)
        self._reply = pb.GetStateReply()
        self._gpus: Mapping[str, int] = {}
        self._up = False
        #: {number: its text}; of the samples that are kept
        self._samples: dict[int, bytes] = {}
        #: of this tick, made when they are asked for
        self._state: bytes | None = None
        self._beside: tuple[bytes, bytes] | None = None
        self._readers: set[Reader] = set()
        #: somebody reads: when last, without a stream
        self._came = asyncio.Event()
        self._asked_s = -math.inf

    async def keep(self) -> None:
        """Look once a period, and less often while nobody reads; for ever."""
        while True:
            began_s = self._clock()
            self._came.clear()
            await self.tick()
            if not self._readers and began_s - self._asked_s >= self._idle_s:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._idle_s - (self._clock() - began_s)):
                        await self._came.wait()
            await asyncio.sleep(max(0.0, self._period_s - (self._clock() - began_s)))

    async def tick(self) -> None:
        """One look, told to all readers."""
        sample = None
        try:
            reply = await self._look()
            kept = step(self._kept, reply, self._clock())
            gpus = {device.uuid: device.index for device in reply.devices}
            text = _text(sample_json(kept.samples[-1], gpus))
        except HarpError as error:
            if self._up:
                _log.warning("web_look_failed", reason=error.message)
            self._up = False
        except Exception:  # noqa: BLE001 - one odd picture may not end the page for good
            _log.exception("web_look_broken")
            self._up = False
        else:
            self._kept, self._reply, self._gpus, self._up = kept, reply, gpus, True
            sample = kept.samples[-1]
            self._keep_text(sample, text)
        self._state = self._beside = None
        if self._readers:
            try:
                told = self._sample_event(sample.number) if sample else b""
                event = _event("state", self._state_text()) + told
            except Exception:  # noqa: BLE001 - likewise; readers come back if they hear nothing
                _log.exception("web_state_broken")
                return
            for reader in list(self._readers):
                reader.put(event)

    def _keep_text(self, sample: Sample, text: bytes) -> None:
        """The newest sample's; those of samples that are kept no more go."""
        self._samples[sample.number] = text
        first = self._kept.samples[0].number
        for number in [number for number in self._samples if number < first]:
            del self._samples[number]

    def read(self, since: int) -> Reader | None:
        """A new reader of the stream; None: there are too many.

        Args:
            since: number of the last sample that it has; the later ones come first.
        """
        if len(self._readers) >= self._most:
            return None
        missed = (self._sample_event(sample.number) for sample in self._kept.since(since))
        first = (f"retry: {_RETRY_MS}\n\n".encode(), _event("state", self._state_text()), *missed)
        reader = Reader(self._backlog, self._readers.discard)
        reader.put(b"".join(first))
        self._readers.add(reader)
        self._came.set()
        return reader

    def state(self) -> bytes:
        """The API's state."""
        self._heed()
        return self._state_text()

    def _heed(self) -> None:
        """Somebody asks who may ask again."""
        self._asked_s = self._clock()
        self._came.set()

    def _state_text(self) -> bytes:
        if self._state is None:
            told: Json = {
                **self._about,
                "arbiter_up": self._up,
                "sample": self._kept.number,
                **state_json(self._reply, self._kept.living),
                "estimates": estimates_json(self._estimates()),
            }
            self._state = _text(told)
        return self._state

    def samples(self, since: int) -> bytes:
        """Samples after a number, whose they are, and all spans."""
        self._heed()
        if self._beside is None:
            about: Json = {"epoch": self._about["epoch"], "series": series_json(self._kept.series)}
            self._beside = _text(about), _text(spans_json(self._kept.spans(), self._gpus))
        about_text, spans = self._beside
        shown = b",".join(self._samples[sample.number] for sample in self._kept.since(since))
        return _with(about_text, b'"samples":[' + shown + b'],"spans":' + spans)

    def _sample_event(self, number: int) -> bytes:
        text = self._samples[number]
        if number == self._kept.number:
            spans = _text(spans_json(tuple(self._kept.open.values()), self._gpus))
            text = _with(text, b'"spans":' + spans)
        return _event("sample", text, number)


def _event(name: str, text: bytes, number: int | None = None) -> bytes:
    """An event of a stream; JSON has no line ends, which would end it."""
    number_line = "" if number is None else f"id: {number}\n"
    return f"event: {name}\n{number_line}data: ".encode() + text + b"\n\n"


def _text(told: Json | list[list[object]]) -> bytes:
    return json.dumps(told, separators=(",", ":")).encode()


def _with(text: bytes, more: bytes) -> bytes:
    """A JSON object that is not empty, and more fields."""
    return text[:-1] + b"," + more + b"}"
