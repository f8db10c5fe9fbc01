# SPDX-License-Identifier: Apache-2.0
"""Two hosts in one: network namespaces, and between them a cable with delay, loss and a rate.

The cable is a veth pair with netem; where the kernel has no netem, a pair of TUN devices with
harp-bench-cable between them. Names say whose they are: what a killed process has left is removed
by the next one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harp.errors import HarpError
from harp.native import NativeDir

__all__ = ["Cable", "TwoHosts", "sweep", "two_hosts", "why_not"]

DEVICE = "harp0"
NEAR, FAR = "10.199.77.1", "10.199.77.2"
_PREFIX = "harp-net"
_NAME = re.compile(rf"{_PREFIX}-(\d+)-(\d+)-(?:near|far)")
_MTU = 9000
_LIMIT = 4096  #: packets under way
_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Cable:
    """What is between the hosts, the same both ways."""

    delay_ms: float = 0.0
    loss_ratio: float = 0.0
    rate_mbit: int = 0  #: 0: as fast as it goes

    def netem(self) -> list[str]:
        """As tc says it; nothing: no netem is needed."""
        words = []
        if self.delay_ms:
            words += ["delay", f"{self.delay_ms:g}ms"]
        if self.loss_ratio:
            words += ["loss", f"{100 * self.loss_ratio:g}%"]
        if self.rate_mbit:
            words += ["rate", f"{self.rate_mbit}mbit"]
        return [*words, "limit", f"{_LIMIT}"] if words else []

    def relay(self) -> list[str]:
        """As harp-bench-cable takes it: us, parts in a million, kbit/s."""
        return [
            f"{self.delay_ms * 1000:.0f}",
            f"{self.loss_ratio * 1e6:.0f}",
            f"{self.rate_mbit * 1000}",
        ]


@dataclass(frozen=True, slots=True)
class TwoHosts:
    """Names of the namespaces, and how they are connected: `netem`, `veth` or `relay`."""

    near: str
    far: str
    kind: str

    def on_near(self) -> list[str]:
        """What starts a program there."""
        return ["ip", "netns", "exec", self.near]

    def on_far(self) -> list[str]:
        """The same for the other."""
        return ["ip", "netns", "exec", self.far]

    def pull(self) -> None:
        """The cable is out: what is sent is lost, and neither host is told more than that."""
        for name in (self.near, self.far):
            _ip("-n", name, "link", "set", DEVICE, "down")

    def plug(self) -> None:
        """The cable is in again."""
        for name in (self.near, self.far):
            _ip("-n", name, "link", "set", DEVICE, "up")


def why_not() -> str | None:
    """Why there can be no two hosts here; None: there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"{tool} is not there; remedy: install iproute2"
    return None


def _ip(*arguments: str) -> str:
    done = subprocess.run(
        ["ip", *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise HarpError(f"ip {' '.join(arguments)}: {done.stderr.strip()[-200:]}")
    return done.stdout


def _started(pid: int) -> str | None:
    """When it was, in ticks since the machine was; None: it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return None


def sweep() -> list[str]:
    """Remove what processes that are no more have left: namespaces of our name, and who is in them.

    Returns:
        The namespaces removed.
    """
    found = []
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0]
        own = _NAME.fullmatch(name)
        if own is not None and _started(int(own[1])) != own[2]:
            _remove(name)
            found.append(name)
    return found


def _remove(name: str) -> None:
    with contextlib.suppress(HarpError):
        for pid in map(int, _ip("netns", "pids", name).split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(HarpError):
        _ip("netns", "del", name)


@contextmanager
def two_hosts(native: NativeDir, cable: Cable) -> Iterator[TwoHosts]:
    """Two hosts with a cable between them; gone afterwards, and all programs on them.

    Raises:
        HarpError: there can be none, and why.
    """
    if (why := why_not()) is not None:
        raise HarpError(why)
    sweep()
    own = f"{_PREFIX}-{os.getpid()}-{_started(os.getpid())}"
    names = (f"{own}-near", f"{own}-far")
    with contextlib.ExitStack() as stack:
        for name in names:
            _ip("netns", "add", name)
            stack.callback(_remove, name)
        kind = _veth(names, cable)
        if kind is None:
            stack.enter_context(_relay(native, names, cable))
            kind = "relay"
        for name, address in zip(names, (NEAR, FAR), strict=True):
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "address", "add", f"{address}/30", "dev", DEVICE)
            _ip("-n", name, "link", "set", DEVICE, "mtu", f"{_MTU}", "up")
        yield TwoHosts(*names, kind)


def _veth(names: Sequence[str], cable: Cable) -> str | None:
    """A pair, and netem where something is asked for; None: this kernel has not what that needs."""
    near, far = names
    try:
        _ip(
            "link",
            "add",
            DEVICE,
            "netns",
            near,
            "type",
            "veth",
            "peer",
            "name",
            DEVICE,
            "netns",
            far,
        )
    except HarpError:
        return None
    if not (words := cable.netem()):
        return "veth"
    for name in names:
        tc = ["tc", "-n", name, "qdisc", "add", "dev", DEVICE, "root", "netem", *words]
        done = subprocess.run(tc, capture_output=True, timeout=_TIMEOUT_S, check=False)
        if done.returncode != 0:
            _ip("-n", near, "link", "del", DEVICE)
            return None
    return "netem"


@contextmanager
def _relay(native: NativeDir, names: Sequence[str], cable: Cable) -> Iterator[None]:
    with subprocess.Popen(
        [str(native.file("harp-bench-cable")), *names, *cable.relay()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            if process.stdout.readline() != "ready\n":
                raise HarpError(f"no cable: {process.stderr.read().strip()[-200:]}")
            yield
        finally:
            process.kill()
