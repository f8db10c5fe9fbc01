# SPDX-License-Identifier: Apache-2.0
"""`harp run`: become the program, as a tenant.

This process makes the grant (folder, listening socket, limits at harpd) and then execs CMD: same
pid, same terminal, same signals, and the exit status is CMD's own. Should it fail before, it exits
as env(1) does: 125 HARP's own failure, 126 CMD cannot be run, 127 CMD is not there.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import click

from harp.api.v1 import control_pb2 as pb
from harp.cli.environment import as_given
from harp.cli.grant import connected, grant, say_grant
from harp.cli.output import Auto, auto_limit_options, fail, progress
from harp.cli.program import locate, obstacle
from harp.cli.trace_record import about, trace_options, wish_of
from harp.errors import HarpError
from harp.model import Limits, Policy, TenantClass
from harp.trace.control import Wish, tell

__all__ = ["run"]

_FAILED, _CANNOT_RUN, _NOT_FOUND = 125, 126, 127
_COMMAND_CHARS = 1 << 16
_POLICIES = {
    None: pb.POLICY_UNSPECIFIED,
    Policy.WARN.value: pb.POLICY_WARN,
    Policy.STOP.value: pb.POLICY_STOP,
    Policy.KILL.value: pb.POLICY_KILL,
}
_CLASS_OF = {
    TenantClass.STANDARD.label: pb.TENANT_CLASS_STANDARD,
    TenantClass.LATENCY.label: pb.TENANT_CLASS_LATENCY,
    TenantClass.BEST_EFFORT.label: pb.TENANT_CLASS_BEST_EFFORT,
}


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option(
    "--gpu",
    default="",
    metavar="I|UUID[,...]",
    help="Device or devices, by index or start of the UUID; CMD sees them in this order."
    " Default: the freest one.",
)
@auto_limit_options
@click.option(
    "--no-gang",
    is_flag=True,
    help="With several GPUs: turns on one do not wait for those on the others.",
)
@click.option(
    "--oversubscribe/--no-oversubscribe",
    default=False,
    help="Let memory leave the GPU while others have it: limits of such tenants need not fit"
    " together. Where they do not, they take turns of seconds, and --share is of those.",
)
@click.option("--name", default="", help="Name shown by ps and top.")
@click.option(
    "--policy",
    type=click.Choice([p.value for p in Policy]),
    default=None,
    help="What to do with processes of CMD that evade HARP.",
)
@click.option(
    "--remote",
    default="",
    metavar="HOST:PORT[,...]|POOL",
    help="GPUs of another host: of a node, the best of several, or of those that a pool's file"
    " lists (./FILE, or NAME for remote/NAME.pool beside HARP's settings).",
)
@click.option(
    "--dir",
    "client_dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="With --remote: the client's folder.  [the one of `harp remote init`]",
)
@click.option(
    "--tls-name",
    default="",
    metavar="NAME",
    help="With --remote: what all nodes' certificates are for; each name in --remote is then all"
    " nodes at its addresses.  [a node's own name]",
)
@click.option(
    "--token",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="With --remote HOST:PORT: a file with the token of a lease that somebody took for CMD. No"
    " certificate is needed, only ca.crt in --dir. The lease is renewed, and not given back.",
)
@click.option("--insecure", is_flag=True, help="With --remote: plaintext, on loopback alone.")
@click.option(
    "--detached",
    is_flag=True,
    help="With --remote: start without a GPU, until `harp remote attach`.",
)
@click.option(
    "--trace",
    "trace_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Record all calls of the driver: the first process writes FILE, others FILE.PID; `harp"
    " trace` reads it.",
    metavar="FILE",
)
@trace_options
@click.option("--json", "as_json", is_flag=True, help="Say the grant as one JSON line on stderr.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    *,
    gpu: str,
    mem: int | Auto,
    host_mem: int,
    share: int | Auto,
    limit: int,
    klass: str,
    no_gang: bool,
    oversubscribe: bool,
    name: str,
    policy: str | None,
    remote: str,
    client_dir: Path | None,
    tls_name: str,
    token: Path | None,
    insecure: bool,
    detached: bool,
    trace_file: Path | None,
    trace_bytes: int,
    trace_data: int | None,
    trace_keep: str,
    as_json: bool,
    command: tuple[str, ...],
) -> NoReturn:
    """Run CMD under a grant: -- CMD [ARG]..."""
    if remote:
        _only_local(
            {
                "--mem auto": isinstance(mem, Auto),
                "--share auto": isinstance(share, Auto),
                "--host-mem": host_mem,
                "--no-gang": no_gang,
                "--oversubscribe": oversubscribe,
                "--policy": policy,
            }
        )
        if insecure and tls_name:
            raise click.UsageError("--insecure uses no certificates, and --tls-name is one's")
    elif client_dir or tls_name or token or insecure or detached:
        raise click.UsageError(
            "--dir, --tls-name, --token, --insecure and --detached go with --remote"
        )
    if not trace_file and trace_data is not None:
        raise click.UsageError("--trace-data goes with --trace FILE")
    env = as_given()
    try:
        wish = wish_of(trace_file, trace_bytes, trace_data, trace_keep) if trace_file else None
    except HarpError as error:
        sys.exit(fail(error, as_json=False, status=_FAILED))
    program = locate(command[0], env)
    if program is None:
        progress(f"harp: {command[0]}: no such program")
        sys.exit(_NOT_FOUND)
    if not os.path.isfile(program) or not os.access(program, os.X_OK):  # noqa: PTH113 - raises not
        progress(f"harp: {command[0]}: cannot be run")
        sys.exit(_CANNOT_RUN)
    why = obstacle(program)
    if remote:
        if why:
            progress(f"harp: warning: {why}; it will find no GPU")
        # A local run shall not wait for the modules of the other kind.
        from harp.cli import run_remote as elsewhere  # noqa: PLC0415

        assert isinstance(mem, int)
        assert isinstance(share, int)  # _only_local has refused the rest
        where = elsewhere.Where(remote, client_dir, insecure, tls_name, token, detached, wish)
        want = elsewhere.wanted(
            Limits(mem, share, limit, TenantClass.of(klass)), gpu=gpu, name=name
        )
        elsewhere.run_remote(where, want, program, command, env, as_json=as_json)
    if why:
        progress(f"harp: warning: {why}; its GPU use is seen by the watchdog, but not limited")
    request = pb.CreateTenantRequest(
        name=name,
        gpu=gpu,
        host_limit_bytes=host_mem,
        limit_ppm=limit,
        tenant_class=_CLASS_OF[klass],
        no_gang=no_gang,
        oversubscribe=oversubscribe,
        policy=_POLICIES[policy],
        root_pid=os.getpid(),
        program=_said(command[0]),
        command=_words(command),
    )
    if isinstance(mem, Auto) or isinstance(share, Auto):
        # Who says their limits shall not wait for the modules of those who do not.
        from harp.cli import automatic  # noqa: PLC0415

        told = say_grant if as_json else None
        asked = automatic.Asked(mem, share)
        automatic.run_beside(asked, request, program, command, env, told=told, made=_traced(wish))
    request.mem_limit_bytes, request.share_ppm = mem, share
    try:
        with connected(env) as (client, info):
            child_env, reply = grant(client, info, request, env, made=_traced(wish))
    except HarpError as error:
        sys.exit(fail(error, as_json=False, status=_FAILED))
    if as_json:
        say_grant(reply, {})
    _become(program, command, child_env)


def _traced(wish: Wish | None) -> Callable[[Path, pb.CreateTenantReply], None] | None:
    """What tells a new tenant that it is traced."""
    if wish is None:
        return None

    def told(folder: Path, reply: pb.CreateTenantReply) -> None:
        devices = {d.uuid: d for d in reply.devices}
        tell(folder, replace(wish, about=about(reply.tenant, devices)))

    return told


def _words(command: Sequence[str]) -> list[str]:
    """A command as harpd is told: it makes a signature of it, of which the end says little."""
    told, left = [], _COMMAND_CHARS
    for word in command:
        told.append(_said(word[:left]))
        left -= len(word)
        if left <= 0:
            break
    return told


def _said(word: str) -> str:
    """Words may have any bytes, messages only text."""
    return word.encode(errors="replace").decode()


def _only_local(given: Mapping[str, object]) -> None:
    """Refuse options that a node does not know for leases."""
    for option, value in given.items():
        if value:
            raise click.UsageError(f"{option} is for GPUs of this host: leases do not have it")


def _become(program: Path, command: tuple[str, ...], env: Mapping[str, str]) -> NoReturn:
    """Exec. Python ignores two signals, and what is ignored stays ignored in CMD: undo that."""
    sys.stdout.flush()
    sys.stderr.flush()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(program, list(command), dict(env))  # noqa: S606 - that is what run is for
    except OSError as error:
        progress(f"harp: {program}: {error.strerror}")
        sys.exit(_NOT_FOUND if isinstance(error, FileNotFoundError) else _CANNOT_RUN)
