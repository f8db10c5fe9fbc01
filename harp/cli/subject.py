# SPDX-License-Identifier: Apache-2.0
"""Which job `harp estimate` is asked about: a tenant, a command or a pod's manifest."""

from __future__ import annotations

import functools
import os
import pwd
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from harp.api.v1 import control_pb2 as pb
from harp.cli.output import PERCENT, SIZE
from harp.cli.pod_file import PodJob, read_pod
from harp.cli.view import printable
from harp.client import Client
from harp.errors import ConfigError
from harp.units import PPM

__all__ = ["Subject", "SubjectCommand", "subject_options"]

_WORDS = "harp.words"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is asked about."""

    text: str  #: for people
    request: pb.EstimateRequest
    pod: PodJob | None = None

    def ask(self, client: Client, *, explain: bool) -> pb.EstimateReply:
        """Ask harpd."""
        request = self.request
        request.explain = explain
        if self.pod and self.pod.share_ppm and not request.mem_bytes:
            # A share of a GPU is one of its memory as well.
            devices = client.state().devices
            whole = devices[0].memory_bytes if devices else 0
            request.mem_bytes = whole * self.pod.share_ppm // PPM
        return client.estimate(request)


class SubjectCommand(click.Command):
    """A command that takes JOB, or after `--` the words of a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep what follows `--` to itself: it is nobody's option."""
        if "--" in args:
            at = args.index("--")
            args, words = args[:at], args[at + 1 :]
            if not words:
                raise click.UsageError("no command after --", ctx)
            ctx.meta[_WORDS] = tuple(words)
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """`-- CMD...` is no argument of click's."""
        return [*super().collect_usage_pieces(ctx), "[-- CMD [ARG]...]"]


def subject_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add JOB, --command, --pod and what may be said of them; the function gets a `subject`."""

    @functools.wraps(command)
    def with_subject(
        *,
        job: str | None,
        line: str,
        pod: Path | None,
        container: str,
        image: str,
        framework: str,
        owner: str,
        labels: tuple[str, ...],
        gpu: str,
        mem: int,
        share: int,
        user: str,
        **rest: object,
    ) -> None:
        words = click.get_current_context().meta.get(_WORDS, ())
        given = [bool(job), bool(line), pod is not None, bool(words)]
        if sum(given) != 1:
            raise click.UsageError("one of JOB, --command, --pod or -- CMD, and only one")
        request = pb.EstimateRequest(
            command=words or _split(line),
            image=image,
            framework=framework,
            owner=owner,
            labels=dict(_label(one) for one in labels),
            gpu=gpu,
            mem_bytes=mem,
            share_ppm=share,
        )
        if user:
            request.for_uid = _uid(user)
        if job:
            others = (("--image", image), ("--framework", framework), ("--owner", owner))
            more = (("--label", labels), ("--gpu", gpu), ("--mem", mem), ("--share", share))
            for option, value in (*others, *more, ("--user", user)):
                if value:
                    raise click.UsageError(f"{option} is not for a tenant: harpd knows its own")
            found = Subject(printable(job), pb.EstimateRequest(tenant=job))
        elif pod:
            found = _of_pod(read_pod(pod, container), request, pod)
        else:
            found = Subject(printable(shlex.join(request.command)), request)
        command(subject=found, **rest)

    for option in reversed(_OPTIONS):
        with_subject = option(with_subject)
    return with_subject


_OPTIONS: Sequence[Callable[[Callable[..., None]], Callable[..., None]]] = (
    click.argument("job", required=False),
    click.option("--command", "line", default="", metavar="LINE", help="Of this command line."),
    click.option(
        "--pod",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Of the pod of a manifest: Pod, Deployment, Job, ... in YAML or JSON.",
    ),
    click.option("--container", default="", help="With --pod: which; else who asks for a share."),
    click.option("--image", default="", help="Container image."),
    click.option("--framework", default="", help="pytorch, tinygrad, ...  [by the command]"),
    click.option("--owner", default="", metavar="NS/KIND/NAME", help="What makes the pod."),
    click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="A label."),
    click.option("--gpu", default="", metavar="I|UUID", help="The GPU it is for.  [the first]"),
    click.option("--mem", type=SIZE, default=0, help="GPU memory that is asked for it: a ceiling."),
    click.option("--share", type=PERCENT, default=0, help="Time that is asked for it: likewise."),
    click.option("--user", default="", metavar="NAME|UID", help="As this user; root alone may."),
)


def _of_pod(found: PodJob, request: pb.EstimateRequest, path: Path) -> Subject:
    request.command[:] = found.command
    request.image = request.image or found.image
    request.owner = request.owner or found.owner
    request.mem_bytes = request.mem_bytes or found.mem_bytes
    request.share_ppm = request.share_ppm or found.share_ppm
    for name, value in found.labels.items():
        if name not in request.labels:
            request.labels[name] = value
    return Subject(printable(f"{request.owner} ({path})"), request, found)


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise ConfigError(
            f"--command {line!r} cannot be split into words: {error}", "or give it after --"
        ) from error


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.UsageError(f"--label {text!r} is no NAME=VALUE")
    return name, value


def _uid(user: str) -> int:
    if user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError as error:
        raise ConfigError(
            f"no user {user!r} on this machine", f"a name or a uid; you are {os.getuid()}"
        ) from error
