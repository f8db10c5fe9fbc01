# SPDX-License-Identifier: Apache-2.0
"""The demo itself: tenants side by side, a common window, a verdict."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from harp.demo import reference, truth
from harp.demo.tenant import Tenant
from harp.errors import ConfigError
from harp.native import native_dir

__all__ = ["SHARE_TOLERANCE", "Asked", "run"]

#: largest distance of an achieved share from the asked one
SHARE_TOLERANCE = 0.05
#: the first tenant's memory limit; each further one has as much more
MEM_STEP_BYTES = 256 << 20
#: losses printed before the window may begin: kernels compiled, JIT graph in use
WARM_LOSSES = 2

_WARM_TIMEOUT_S = 240.0
_END_TIMEOUT_S = 60.0
#: where private folders are made, if they can be
_MEMORY = "/dev/shm"  # noqa: S108
_SHORT = "/tmp"  # noqa: S108


@dataclass(frozen=True, slots=True)
class Asked:
    """What one tenant is promised."""

    name: str
    share: float  #: 0..1
    mem_bytes: int
    seed: int


def run(
    shares: Sequence[float] = (0.3, 0.7),
    *,
    seconds: float = 20.0,
    progress: Callable[[str], None] = lambda _line: None,
) -> dict[str, object]:
    """Runs the demo.

    Args:
        shares: of the GPU's time, 0..1 each, at most 1 in sum; one tenant each.
        seconds: length of the common window.
        progress: called with a line to show now and then.

    Returns:
        The result, ready for JSON: `device`, `software`, `seconds`, `engine_busy_ratio`,
        `overrun_ratio`, `tenants` (`name`, `pid`, `asked_share`, `achieved_share`,
        `mem_limit_bytes`, `mem_peak_bytes`, `steps`, `loss_first`, `loss_last`, `loss_cpu_last`,
        `loss_equal`), and `failures`: what was promised and not kept, a sentence each.

    Raises:
        ConfigError: shares that cannot be.
        HarpError: a program failed, or did not come to the window in time.
    """
    asked = _ask(shares)
    binaries = native_dir()
    with _private_machine() as env, ExitStack() as stack:
        training = {
            **env,
            "DEV": "CUDA:PTX",
            "CC": "false",  # tinygrad's CPU backend cannot stand in unnoticed
            "CACHELEVEL": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        tenants = []
        for one in asked:
            progress(f"{one.name}: {one.share:.0%} of the time, {one.mem_bytes >> 20} MiB")
            tenant = Tenant(one.name, _harp_run(one), training)
            stack.callback(tenant.kill)
            tenants.append(tenant)
        progress("compiling kernels (cached for the next time) ...")
        deadline_s = time.monotonic() + _WARM_TIMEOUT_S
        for tenant in tenants:
            tenant.wait_steps(WARM_LOSSES, deadline_s)
        progress(f"all train; measuring for {seconds:g} s ...")
        begin = truth.read(binaries, env)
        begin_s = time.monotonic()
        while time.monotonic() - begin_s < seconds:
            time.sleep(min(1.0, max(0.0, seconds - (time.monotonic() - begin_s))))
            for tenant in tenants:
                tenant.check_alive()
        end = truth.read(binaries, env)
        for tenant in tenants:
            tenant.finish(ask=True, timeout_s=_END_TIMEOUT_S)
        final = truth.read(binaries, env)
        progress("the same on the CPU ...")
        return _result(asked, tenants, begin, end, final)


def _ask(shares: Sequence[float]) -> list[Asked]:
    if len(shares) < 2:  # one alone shares with nobody
        raise ConfigError(f"{len(shares)} share given, 2 or more make a demo", "--shares 30,70")
    if min(shares) <= 0 or sum(shares) > 1 + 1e-9:
        raise ConfigError(
            f"shares {', '.join(f'{share:.0%}' for share in shares)} must be above 0 %"
            " and at most 100 % together",
            "--shares 30,70",
        )
    return [
        Asked(
            name=f"train-{index}-{round(share * 100)}",
            share=share,
            mem_bytes=index * MEM_STEP_BYTES,
            seed=index,
        )
        for index, share in enumerate(shares, start=1)
    ]


def _harp_run(one: Asked) -> list[str]:
    return [
        *(sys.executable, "-m", "harp", "run", "--name", one.name),
        *("--mem", f"{one.mem_bytes >> 20}MiB", "--share", f"{one.share * 100:g}%", "--"),
        *Tenant.command(seed=one.seed),
    ]


@contextmanager
def _private_machine() -> Iterator[dict[str, str]]:
    """An environment with its own software GPU and its own harpd, both gone afterwards.

    HARP_RUN and HARP_SOFT_DIR of the caller are kept, so that `harp top` can watch.
    """
    prefix = f"harp-demo-{os.getpid()}-"
    with ExitStack() as stack:
        env = dict(os.environ)
        env["HARP_CONFIG_DEVICE_KIND"] = "software"
        if "HARP_SOFT_DIR" not in env:
            folder = tempfile.TemporaryDirectory(prefix=prefix, dir=_usable(_MEMORY))
            env["HARP_SOFT_DIR"] = stack.enter_context(folder)
        if "HARP_RUN" not in env:
            # Not in $TMPDIR: sockets lie in it, and their paths must be short.
            folder = tempfile.TemporaryDirectory(prefix=prefix, dir=_usable(_SHORT))
            env["HARP_RUN"] = stack.enter_context(folder)
            env["XDG_RUNTIME_DIR"] = env["HARP_RUN"]  # grants and injected libraries
            stack.callback(_stop_daemon, dict(env))
        yield env


def _usable(folder: str) -> str | None:
    """`folder` if it can be used, else the usual place; what is made in it is private."""
    return folder if os.access(folder, os.W_OK) else None


def _stop_daemon(env: Mapping[str, str]) -> None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            [sys.executable, "-m", "harp", "daemon", "--stop", "--all"],
            env=dict(env),
            timeout=20,
            check=False,
            capture_output=True,
        )


def _result(
    asked: Sequence[Asked],
    tenants: Sequence[Tenant],
    begin: truth.Truth,
    end: truth.Truth,
    final: truth.Truth,
) -> dict[str, object]:
    pids = [tenant.pid for tenant in tenants]
    rows: list[dict[str, object]] = []
    failures: list[str] = []
    with reference.cpu_env(os.environ) as cpu:
        for one, tenant, share in zip(asked, tenants, end.shares(begin, pids), strict=True):
            steps = max(tenant.losses)
            on_cpu = reference.train_on_cpu(one.seed, steps, cpu)
            off = reference.difference(tenant.losses, on_cpu)
            first, last = tenant.losses[min(tenant.losses)], tenant.losses[steps]
            # The context is not the program's to save on: it counts against no tenant's limit.
            peak_bytes = final.uses[tenant.pid].peak_bytes - end.uses[tenant.pid].context_bytes
            rows.append(
                {
                    "name": one.name,
                    "pid": tenant.pid,
                    "asked_share": one.share,
                    "achieved_share": share,
                    "mem_limit_bytes": one.mem_bytes,
                    "mem_peak_bytes": peak_bytes,
                    "steps": steps,
                    "loss_first": first,
                    "loss_last": last,
                    "loss_cpu_last": on_cpu[steps],
                    "loss_equal": off <= 1,
                }
            )
            fair = one.share / sum(each.share for each in asked)
            if abs(share - fair) > SHARE_TOLERANCE:
                failures.append(f"{one.name} had {share:.1%} of the engine, not {fair:.1%}")
            if not 0 < peak_bytes <= one.mem_bytes:
                failures.append(f"{one.name} held {peak_bytes} of {one.mem_bytes} bytes")
            if not last < first:
                failures.append(f"{one.name}'s loss did not fall: {first} to {last}")
            if off > 1:
                failures.append(f"{one.name}'s losses differ from the CPU's, {off:.1f} x allowed")
    return {
        "device": end.device,
        "software": True,
        "seconds": (end.now_ns - begin.now_ns) / 1e9,
        "engine_busy_ratio": end.busy_ratio(begin, pids),
        "overrun_ratio": end.overrun_ratio(begin, pids),
        "tenants": rows,
        "failures": failures,
    }
