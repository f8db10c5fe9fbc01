# SPDX-License-Identifier: Apache-2.0
"""`harp run --mem auto --share auto`: limits that harpd estimates from runs like this one.

With them this process stays beside CMD as its parent: only so can it say, when CMD has run
out of that memory, what the next run will get. The rest is as ever: signals, terminal, exit status.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from harp.api.jobs import need_of
from harp.api.v1 import control_pb2 as pb
from harp.cli.child import Child
from harp.cli.grant import connected, grant
from harp.cli.output import Auto, fail, progress
from harp.cli.view import printable
from harp.client import Client
from harp.errors import HarpError
from harp.estimator.job import Need, Outcome
from harp.estimator.keys import SIMILAR
from harp.lease_wire import GRANULE_BYTES
from harp.units import PPM, format_percent, format_size

__all__ = ["Asked", "estimated", "limits", "run_beside"]

_FAILED = 125
#: a share is given in whole percent
_STEP_PPM = 10_000


@dataclass(frozen=True, slots=True)
class Asked:
    """What `--mem` and `--share` say."""

    mem: int | Auto
    share: int | Auto

    def fill(self, request: pb.CreateTenantRequest) -> None:
        """What is said outright, and what would be asked for where it is not."""
        request.mem_limit_bytes = request.asked_mem_bytes = _said(self.mem)
        request.share_ppm = request.asked_share_ppm = _said(self.share)
        request.estimated = True


def estimated(client: Client, asked: Asked, request: pb.CreateTenantRequest) -> dict[str, Need]:
    """Ask harpd, put its answer into `request`, and say in one line what it is; {target: need}."""
    needs = _needs(client, asked, request)
    asked.fill(request)
    words = []
    if isinstance(asked.mem, Auto):
        request.mem_limit_bytes, text = limits(needs["gpu_mem_bytes"], asked.mem)
        words.append(text)
    if isinstance(asked.share, Auto):
        request.share_ppm, text = limits(needs["share_ratio"], asked.share)
        words.append(text)
    progress(f"harp: {'; '.join(words)}")
    return needs


def limits(need: Need, auto: Auto) -> tuple[int, str]:
    """The limit that a need makes, bytes or parts per million, and the words for it."""
    memory = need.target == "gpu_mem_bytes"
    name, form = ("memory", format_size) if memory else ("share", format_percent)
    reason = printable(need.reason)
    # What other jobs needed is no reason to hold so much for this one where nobody asked for it.
    own = need.known and (need.level in SIMILAR or auto.most)
    if not own or need.bound is None:
        if auto.most:
            return auto.most, f"{name} {form(auto.most)}, as asked for: {reason}"
        return 0, f"{name} without {'a limit' if memory else 'a guarantee'}: {reason}"
    whole = _up(need.bound, GRANULE_BYTES), min(_up(need.bound * PPM, _STEP_PPM), PPM)
    found = whole[0] if memory else whole[1]
    if auto.most and found > auto.most:
        found, reason = auto.most, f"{reason}; {form(auto.most)} at most, as asked for"
    return found, f"{name} {form(found)}: {reason}"


def run_beside(
    asked: Asked,
    request: pb.CreateTenantRequest,
    program: Path,
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    told: Callable[[pb.CreateTenantReply, Mapping[str, Need]], None] | None,
    made: Callable[[Path, pb.CreateTenantReply], None] | None = None,
) -> NoReturn:
    """Run CMD as a child, under estimated limits; exits as it does.

    Args:
        asked: the options.
        request: for the tenant.
        program: file.
        command: its words.
        env: for CMD.
        told: is called with the grant and the estimate before CMD begins.
        made: is called with the grant's folder.
    """
    # First the child: gRPC has no threads yet, which a fork would not take along.
    with Child(program, command) as child:
        request.root_pid = child.pid
        try:
            with connected(env) as (client, info):
                needs = estimated(client, asked, request)
                child_env, reply = grant(client, info, request, env, made=made)
        except HarpError as error:
            sys.exit(fail(error, as_json=False, status=_FAILED))
        if told:
            told(reply, needs)
        child.start(child_env)
        status = asyncio.run(child.ended())
    if status and isinstance(asked.mem, Auto) and needs["gpu_mem_bytes"].known:
        _say_if_short(asked, asked.mem, request, reply.tenant, env)
    sys.exit(status)


def _say_if_short(
    asked: Asked,
    auto: Auto,
    request: pb.CreateTenantRequest,
    tenant: pb.Tenant,
    env: Mapping[str, str],
) -> None:
    """If the limit was too small for it: what the next run will get."""
    limit = format_size(tenant.mem_limit_bytes)
    try:
        with Client.connect(env) as client:
            found = client.estimate(pb.EstimateRequest(tenant=tenant.name))
            if found.ended.outcome != Outcome.OOM:
                return
            _, words = limits(_needs(client, asked, request)["gpu_mem_bytes"], auto)
    except HarpError as error:
        progress(f"harp: whether {limit} were too little is not known: {error.message}")
        return
    progress(f"harp: {tenant.name} ran out of its estimated limit, {limit}; next time: {words}")


def _needs(client: Client, asked: Asked, request: pb.CreateTenantRequest) -> dict[str, Need]:
    reply = client.estimate(
        pb.EstimateRequest(
            command=request.command,
            gpu=request.gpu,
            mem_bytes=_said(asked.mem),
            share_ppm=_said(asked.share),
        )
    )
    return {one.target: need_of(one) for one in reply.needs}


def _said(value: int | Auto) -> int:
    return value.most if isinstance(value, Auto) else value


def _up(value: float, step: int) -> int:
    """In whole steps, one at least."""
    return max(1, math.ceil(value / step)) * step
