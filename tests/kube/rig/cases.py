# SPDX-License-Identifier: Apache-2.0
"""What kubelet's device manager does with our plugin, as cases for any kubelet.

A case is a list of steps; what comes of a step is a line of text that says the same on every
kubelet that does the same: which GPU's slots each container got and whose it took over, or why the
pod was refused. Names of GPUs are their place in the plugin's list.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from device_plugin.fake_kubelet import Ask, Stage

__all__ = ["CASES", "Admit", "Kubelet", "Remove", "Restart", "refusal", "run", "words"]


@dataclass(frozen=True)
class Admit:
    """A pod comes."""

    pod: str
    asks: tuple[Ask, ...]


@dataclass(frozen=True)
class Remove:
    """A pod goes."""

    pod: str


@dataclass(frozen=True)
class Restart:
    """Kubelet restarts, and our plugin is registered again."""


def _one(pod: str, size: int) -> Admit:
    return Admit(pod, (Ask("main", size),))


def _init(name: str, size: int) -> Ask:
    return Ask(name, size, Stage.INIT)


#: for a node of two GPUs with 100 slots each
CASES: Mapping[str, tuple[Admit | Remove | Restart, ...]] = {
    "a share": (_one("a", 30),),
    "shares fill up one GPU": (_one("a", 30), _one("b", 70), _one("c", 100)),
    "scattered slots": (_one("a", 60), _one("b", 60), _one("c", 60), _one("d", 40)),
    "whole GPUs": (_one("a", 150), _one("b", 200)),
    "more than there is": (_one("a", 200), _one("b", 1)),
    "a larger init container": (
        Admit("a", (_init("first", 100), Ask("main", 40))),
        _one("b", 100),
        _one("c", 60),
    ),
    "a smaller init container": (Admit("a", (_init("first", 20), Ask("main", 40))), _one("b", 60)),
    "the same again": (Admit("a", (_init("first", 40), _init("second", 40), Ask("main", 40))),),
    "several containers": (Admit("a", (Ask("one", 30), Ask("two", 50))), _one("b", 100)),
    "an init container's slots for two": (
        Admit("a", (_init("first", 60), Ask("one", 30), Ask("two", 30))),
        _one("b", 40),
    ),
    "one of two does not fit": (
        Admit("a", (Ask("one", 100), Ask("two", 60))),
        Admit("b", (Ask("one", 40), Ask("two", 100))),
        _one("c", 40),
    ),
    "a container without": (Admit("a", (Ask("one", 0), Ask("two", 50))),),
    "gone, and another": (_one("a", 100), _one("b", 100), Remove("a"), _one("c", 100)),
    "over a restart": (_one("a", 60), Restart(), _one("b", 100), _one("c", 50), _one("d", 40)),
}


class Kubelet(Protocol):
    """One that cases can be run on. Each case has its own pods; none are there before."""

    def admit(self, pod: str, asks: tuple[Ask, ...]) -> str:
        """Have it admitted and started; why not, or ""."""
        ...

    def held(self, pod: str) -> Mapping[str, frozenset[str]]:
        """{container: its slots}."""
        ...

    def gpu_of(self, slot: str) -> int:
        """A slot's GPU."""
        ...

    def remove(self, pod: str) -> None:
        """It goes, and its slots are free."""
        ...

    def restart(self) -> None:
        """End and come back."""
        ...


def run(kubelet: Kubelet, steps: Iterable[Admit | Remove | Restart]) -> list[str]:
    """What comes of each step."""
    lines = []
    for step in steps:
        match step:
            case Admit(pod, asks):
                why = kubelet.admit(pod, asks)
                lines.append(f"{pod}: {why or words(kubelet, pod, asks)}")
            case Remove(pod):
                kubelet.remove(pod)
            case Restart():
                kubelet.restart()
    return lines


def words(kubelet: Kubelet, pod: str, asks: Iterable[Ask]) -> str:
    """Who has what, as "main 40 of GPU 0, 20 of them first's"."""
    held = kubelet.held(pod)
    said = []
    before: list[Ask] = []
    for ask in asks:
        slots = held.get(ask.name, frozenset())
        counts = Counter(map(kubelet.gpu_of, slots))
        parts = [f"{count} of GPU {gpu}" for gpu, count in sorted(counts.items())]
        shared = ((len(slots & held.get(o.name, frozenset())), o.name) for o in before)
        parts += [f"{count} of them {name}'s" for count, name in shared if count]
        said.append(f"{ask.name} {', '.join(parts) or 'none'}")
        before.append(ask)
    return "; ".join(said)


def refusal(message: str) -> str:
    """A reason without what differs from kubelet to kubelet in its wording alone."""
    counted = re.search(r"requested: (\d+), available: (\d+)", message, re.IGNORECASE)
    if counted:
        return f"refused: requested {counted[1]}, available {counted[2]}"
    ours = re.search(r"(\d+ slots are more than one GPU|largest free share .*? need \d+)", message)
    return f"refused: {ours[1] if ours else message}"
