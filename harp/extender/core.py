# SPDX-License-Identifier: Apache-2.0
"""What follows from what happens: step(view, event, now) -> actions. Pure.

    BindAsked ── does it fit? which GPU? assume ── Post ── Posted ── confirm, or undo ── Done
        └── Wait, and asked again                             └── lost, conflict ── Read ── Was ──┘

(1) Between BindAsked and Done a pod's slots are nobody else's, and no second Post about it is
    made.
(2) After a lost answer the pod may be bound at any moment, for LOST_S. Meanwhile it is bound to
    that node, to those GPUs, or not at all: a second request then cannot contradict the first.
(3) A pod that the plugin could take for another that has not begun waits for that one (waiting.py).
(4) A pod whose answer says "bound" is bound where the API server says, not where we asked.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace

from harp.extender.objects import GPU, RESOURCE, NodeInfo, PodInfo
from harp.extender.room import fit, misfit
from harp.extender.state import View
from harp.extender.waiting import clash

__all__ = [
    "Action",
    "BindAsked",
    "Done",
    "Event",
    "Expired",
    "NodeGone",
    "NodeSeen",
    "NodesListed",
    "Outcome",
    "PodGone",
    "PodSeen",
    "PodsListed",
    "Post",
    "Posted",
    "Read",
    "TookOver",
    "Wait",
    "Was",
    "step",
]


@dataclass(frozen=True, slots=True)
class NodesListed:
    """These are all nodes."""

    nodes: tuple[NodeInfo, ...]


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """One is new, or has changed."""

    node: NodeInfo


@dataclass(frozen=True, slots=True)
class NodeGone:
    """One is not there any more."""

    name: str


@dataclass(frozen=True, slots=True)
class PodsListed:
    """These are all pods, by the list that the watch begins with."""

    pods: tuple[PodInfo, ...]


@dataclass(frozen=True, slots=True)
class PodSeen:
    """One is new, or has changed."""

    pod: PodInfo


@dataclass(frozen=True, slots=True)
class PodGone:
    """One is not there any more."""

    uid: str


@dataclass(frozen=True, slots=True)
class TookOver:
    """We lead; pods as they are now, of a list read for this: the watch may be behind."""

    pods: tuple[PodInfo, ...]


@dataclass(frozen=True, slots=True)
class BindAsked:
    """kube-scheduler wants this pod on this node."""

    pod: PodInfo  #: read just now
    node: str


class Outcome(enum.Enum):
    """What the API server makes of a binding."""

    BOUND = enum.auto()
    REFUSED = enum.auto()  #: it was not done, and will not be
    CONFLICT = enum.auto()  #: this one was not done; perhaps since another was
    LOST = enum.auto()  #: nobody knows


@dataclass(frozen=True, slots=True)
class Posted:
    """The answer to a Post."""

    pod: PodInfo  #: as in Post
    outcome: Outcome
    why: str = ""


@dataclass(frozen=True, slots=True)
class Was:
    """The answer to a Read."""

    pod: PodInfo  #: as in Read
    now: PodInfo | None  #: None: there is none of that name
    known: bool = True  #: false: no answer
    why: str = ""  #: of the Post before


@dataclass(frozen=True, slots=True)
class Post:
    """Bind this pod to `pod.node`, with these annotations in the same write."""

    pod: PodInfo
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Read:
    """Read this pod."""

    pod: PodInfo
    why: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again when something has changed, after `for_s` at the latest; or give it up."""

    for_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Done:
    """Tell kube-scheduler: bound, or why not. It tries again after the latter."""

    outcome: Outcome
    why: str = ""


@dataclass(frozen=True, slots=True)
class Expired:
    """This one's assumption has ended in time; for the log."""

    pod: PodInfo


Event = (
    NodesListed
    | NodeSeen
    | NodeGone
    | PodsListed
    | PodSeen
    | PodGone
    | TookOver
    | BindAsked
    | Posted
    | Was
)
Action = Post | Read | Wait | Done | Expired


def step(view: View, event: Event, now_s: float) -> tuple[Action, ...]:
    """Change the view, and say what is to be done.

    Args:
        view: what is known; changed.
        event: what happened.
        now_s: monotonic.
    """
    expired = tuple(Expired(pod) for pod in view.expire(now_s))
    match event:
        case NodesListed(nodes):
            view.replace_nodes(nodes)
        case NodeSeen(node):
            view.put_node(node)
        case NodeGone(name):
            view.drop_node(name)
        case PodsListed(pods):
            view.replace_pods(pods)
        case PodSeen(pod):
            view.put_pod(pod)
        case PodGone(uid):
            view.drop_pod(uid)
        case TookOver(pods):
            view.begun(pods)
            for pod in pods:
                if pod.node and not pod.ended and pod.claims:
                    _bound(view, pod, now_s)
        case BindAsked(pod, node):
            return (*expired, _ask(view, pod, node))
        case Posted(pod, outcome, why):
            return (*expired, _answered(view, pod, outcome, why, now_s))
        case Was():
            return (*expired, _was(view, event, now_s))
    return expired


def _ask(view: View, pod: PodInfo, node: str) -> Action:
    known, before = view.pods.get(pod.uid), view.assumption(pod.uid)
    bound = pod.node or (known.node if known else "")
    if not bound and before is not None and before.confirmed:
        bound = before.pod.node  # read before it was bound; the watch is behind
    if bound:
        if bound == node:
            return Done(Outcome.BOUND)
        return Done(Outcome.REFUSED, f"{pod.key} is bound to node {bound} already")
    if pod.ended or view.is_gone(pod.uid):
        return Done(Outcome.REFUSED, f"{pod.key} has ended")
    if not pod.managed:
        return Done(
            Outcome.REFUSED, f"{pod.key} asks for no {RESOURCE}: kube-scheduler binds it itself"
        )
    if before is not None and before.asked:
        return Done(
            Outcome.REFUSED, f"{pod.key} is being bound to node {before.pod.node} at this moment"
        )
    if before is not None and before.pod.node != node:
        return Done(
            Outcome.REFUSED,
            f"the answer to binding {pod.key} to node {before.pod.node} was lost: for 3 minutes it"
            " may be bound there, and is bound to no other",
        )
    if before is not None:
        gpus = before.pod.gpus
    elif not pod.claims:
        gpus = ()
    else:
        found = _place(view, pod, node)
        if isinstance(found, str):
            return Done(Outcome.REFUSED, f"node {node}: {found}")
        gpus = found
        if (other := _mistakable(view, replace(pod, node=node, gpus=gpus))) is not None:
            return Wait(
                view.patience_s(other.uid),
                f"{pod.key} is not bound to {node} yet: {other.key} may be mixed up with it on the"
                " node, and kubelet has not begun it; the pod is tried again",
            )
    view.assume(pod, node, gpus)
    assumed = view.assumption(pod.uid)
    assert assumed is not None  # it is not bound, and not gone
    # Where no GPU is named, what the pod's maker wrote there may not be taken for ours.
    return Post(assumed.pod, {GPU: ",".join(gpus)} if pod.claims else {})


def _mistakable(view: View, pod: PodInfo) -> PodInfo | None:
    """A pod on its node for which the plugin could take it, and the reverse."""
    return clash(view.nodes[pod.node], pod, view.waiting(pod.node))


def _place(view: View, pod: PodInfo, node: str) -> tuple[str, ...] | str:
    """Names of the GPUs, or why it does not fit."""
    known = view.nodes.get(node)
    if known is None:
        return "HARP's extender does not know the node"
    if why := misfit(pod.claims, known):
        return why
    found = fit(view.room(node), pod.claims)
    return found if isinstance(found, str) else tuple(map(known.name_of, found.gpus))


def _answered(view: View, pod: PodInfo, outcome: Outcome, why: str, now_s: float) -> Action:
    match outcome:
        case Outcome.BOUND:
            view.confirm(pod.uid, now_s)
            return Done(Outcome.BOUND)
        case Outcome.REFUSED:
            _not_this_time(view, pod, now_s)
            return Done(Outcome.REFUSED, f"{pod.key} is not bound to {pod.node}: {why}")
        case Outcome.LOST:
            view.lose(pod.uid, now_s)
    return Read(pod, why)


def _was(view: View, was: Was, now_s: float) -> Action:
    pod, now = was.pod, was.now
    not_bound = f"{pod.key} is not bound to {pod.node}: {was.why}"
    if not was.known:
        view.lose(pod.uid, now_s)  # also after a conflict: with what, is not known
        return Done(Outcome.LOST, f"whether {pod.key} is bound to {pod.node}: {was.why}")
    if now is None or now.uid != pod.uid or now.ended:
        view.undo(pod.uid)
        return Done(Outcome.REFUSED, not_bound)
    if not now.node:
        _not_this_time(view, pod, now_s)
        return Done(Outcome.REFUSED, not_bound)
    _bound(view, now, now_s)
    if now.node == pod.node:
        return Done(Outcome.BOUND)
    return Done(Outcome.REFUSED, f"{pod.key} is bound to node {now.node} already")


def _bound(view: View, pod: PodInfo, now_s: float) -> None:
    """The API server has it bound there; the watch may not know yet."""
    before = view.assumption(pod.uid)
    if before is None or not before.confirmed:  # else we have written it ourselves
        view.assume(pod, pod.node, pod.gpus)
    view.confirm(pod.uid, now_s)


def _not_this_time(view: View, pod: PodInfo, now_s: float) -> None:
    """This request did not bind it; one before whose answer was lost still may."""
    assumed = view.assumption(pod.uid)
    if assumed is not None and assumed.lost:
        view.lose(pod.uid, now_s)
    else:
        view.undo(pod.uid)
