# SPDX-License-Identifier: Apache-2.0
"""Binding, by the leader alone: does what core.py says, with the API server.

The annotation that names the GPU goes with the Binding: the API server writes both or neither, so
no pod is ever bound without it, and the service account needs no right to change pods.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import quote

import structlog

from harp.errors import ConfigError, DaemonUnreachable
from harp.extender.core import (
    BindAsked,
    Done,
    Event,
    Expired,
    Outcome,
    Post,
    Posted,
    Read,
    Wait,
    Was,
    step,
)
from harp.extender.objects import PodInfo
from harp.extender.state import View
from harp.kube.client import Asking

__all__ = ["Binder"]

_log = structlog.get_logger(__name__)
#: the last two requests are together below the 5 s that a leader who has just stopped has before
#: another begins (harp/kube/lease.py); all of it is below kube-scheduler's patience with an
#: extender, httpTimeout: 15s
_GET_S = 1.0
_POST_S = 2.5
#: for other pods to begin; a moment is usual
_WAIT_S = 10.0
#: after so long it is looked whether we still lead, and are waited for
_LOOK_S = 0.5
#: what a binding that has begun may take at most
_DRAIN_S = 2 * _GET_S + _POST_S + 2.0
#: without an election: after so long without a binding another may have bound meanwhile; shorter
#: than the time that another kube-scheduler needs to see that its leader is gone (15 s)
_QUIET_S = 10.0


class Binder:
    """Binds pods. Safe to use from several threads.

    Args:
        view: the cluster.
        lock: of the view.
        api: the API server.
        leads: whether we may.
        leader: who does, for people.
        refresh: reads what is bound; called before a binding that follows a quiet time. For who
            holds no election: kube-scheduler's own decides who is asked, and does not tell us.
        clock_s: monotonic.
    """

    def __init__(
        self,
        view: View,
        lock: threading.Condition,
        api: Asking,
        *,
        leads: Callable[[], bool],
        leader: Callable[[], str] = lambda: "",
        refresh: Callable[[], None] | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._view = view
        self._lock = lock
        self._api = api
        self._leads = leads
        self._leader = leader
        self._refresh = refresh
        self._clock_s = clock_s
        #: held while refresh() runs, so that nobody binds before it has ended
        self._refreshing = threading.Lock()
        self._last_s: float | None = None  #: when a binding was asked for
        #: guards the two below
        self._idle = threading.Condition()
        self._running = 0
        self._closed = False

    def bind(
        self,
        namespace: str,
        name: str,
        uid: str,
        node: str,
        *,
        gone: Callable[[], bool] = lambda: False,
    ) -> Done:
        """Bind; what to tell kube-scheduler.

        A kube-scheduler that hangs up meanwhile (`gone`) may have lost its own election: another
        binds 5 s later, so this one does not wait for other pods any more.
        """
        with self._idle:
            if self._closed:
                return Done(Outcome.REFUSED, "HARP's extender is ending; the pod is tried again")
            self._running += 1
        try:
            return self._bind(namespace, name, uid, node, gone)
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def now_s(self) -> float:
        """By its clock."""
        return self._clock_s()

    def close(self) -> bool:
        """Begin nothing more, and wait for what has begun; whether all of it has ended."""
        with self._idle:
            self._closed = True
        with self._lock:
            self._lock.notify_all()  # to those who wait for other pods
        with self._idle:
            return self._idle.wait_for(lambda: not self._running, _DRAIN_S)

    def _bind(
        self, namespace: str, name: str, uid: str, node: str, gone: Callable[[], bool]
    ) -> Done:
        if not self._leads():
            other = self._leader() or "nobody, at this moment"
            return Done(
                Outcome.REFUSED,
                f"this replica is not the leader, who is {other}; the pod is tried again",
            )
        try:
            self._look_again()
            pod = self._pod(namespace, name)
        except (DaemonUnreachable, ConfigError) as error:
            return Done(Outcome.REFUSED, error.message)
        if pod is None:
            return Done(Outcome.REFUSED, f"{namespace}/{name} is not there any more")
        if uid and pod.uid != uid:
            return Done(
                Outcome.REFUSED, f"{pod.key} is another pod now: its uid is {pod.uid}, not {uid}"
            )
        return self._follow(BindAsked(pod, node), gone)

    def _look_again(self) -> None:
        if self._refresh is None:
            return
        with self._refreshing:
            now_s = self._clock_s()
            if self._last_s is None or now_s >= self._last_s + _QUIET_S:
                self._refresh()
            self._last_s = now_s

    def _follow(self, event: Event, gone: Callable[[], bool]) -> Done:
        end_s = self._clock_s() + _WAIT_S
        while True:
            with self._lock:
                before = self._view.generation
                actions = step(self._view, event, self._clock_s())
                if self._view.generation != before:
                    self._lock.notify_all()
                if isinstance(wait := actions[-1], Wait):
                    actions = (*actions[:-1], *self._wait(wait, end_s, gone))
            for action in actions:
                match action:
                    case Expired(pod):
                        _log.warning("assumption_expired", pod=pod.key, node=pod.node)
                    case Post():
                        event = self._post(action)
                    case Read():
                        event = self._read(action)
                    case Done(outcome, why):
                        if outcome is not Outcome.BOUND:
                            _log.warning("not_bound", reason=why)
                        return action

    def _wait(self, wait: Wait, end_s: float, gone: Callable[[], bool]) -> tuple[Done, ...]:
        """Until something has changed: (); or why no longer. The lock is held, but for the wait."""
        generation, until_s = self._view.generation, self._clock_s() + wait.for_s
        while self._view.generation == generation and self._clock_s() < until_s:
            left_s = min(end_s, until_s) - self._clock_s()
            if left_s <= 0:
                return (Done(Outcome.REFUSED, wait.why),)
            if gone():
                return (Done(Outcome.REFUSED, f"{wait.why}, but nobody waits for it"),)
            if self._closed or not self._leads():
                return (
                    Done(Outcome.REFUSED, "this replica is not the leader any more"),
                )  # or ends
            self._lock.wait(min(left_s, _LOOK_S))
        return ()

    def _post(self, post: Post) -> Posted:
        pod = post.pod
        if not self._leads():  # it took us that long
            return Posted(pod, Outcome.REFUSED, "this replica is not the leader any more")
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {
                "name": pod.name,
                "namespace": pod.namespace,
                "uid": pod.uid,
                "annotations": dict(post.annotations),
            },
            "target": {"apiVersion": "v1", "kind": "Node", "name": pod.node},
        }
        path = f"{_path(pod.namespace, pod.name)}/binding"
        try:
            answer = self._api.ask("POST", path, body, timeout_s=_POST_S)
        except ConfigError as error:  # no token: nothing was sent
            return Posted(pod, Outcome.REFUSED, error.message)
        except DaemonUnreachable as error:
            return Posted(pod, Outcome.LOST, error.message)
        except Exception as error:  # noqa: BLE001 - whatever it was, the pod may be bound
            _log.exception("binding_broken", pod=pod.key)
            return Posted(pod, Outcome.LOST, f"internal error: {error}")
        why = f"the API server answers {answer.why}"
        if answer.good:
            _log.info("bound", pod=pod.key, node=pod.node, gpus=",".join(pod.gpus))
            return Posted(pod, Outcome.BOUND)
        if answer.status == HTTPStatus.CONFLICT:
            return Posted(pod, Outcome.CONFLICT, why)
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return Posted(pod, Outcome.LOST, why)  # a time-out on its side may have been too late
        return Posted(pod, Outcome.REFUSED, why)

    def _read(self, read: Read) -> Was:
        try:
            now = self._pod(read.pod.namespace, read.pod.name)
        except Exception as error:  # noqa: BLE001 - as above
            if not isinstance(error, DaemonUnreachable | ConfigError):
                _log.exception("reading_broken", pod=read.pod.key)
            return Was(read.pod, None, known=False, why=read.why)
        return Was(read.pod, now, why=read.why)

    def _pod(self, namespace: str, name: str) -> PodInfo | None:
        answer = self._api.ask("GET", _path(namespace, name), timeout_s=_GET_S)
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        if not answer.good:
            raise DaemonUnreachable(f"the API server answers {answer.why} about {namespace}/{name}")
        return PodInfo.of(answer.body)


def _path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(name, safe='')}"
