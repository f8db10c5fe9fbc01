# SPDX-License-Identifier: Apache-2.0
"""`harp`: the table of commands. Each is loaded when it is called: `harp run` must start fast."""

from __future__ import annotations

import importlib
import os
import sys

import click

import harp
from harp.cli import environment
from harp.cli.output import fail
from harp.errors import HarpError

__all__ = ["COMMANDS", "cli", "main"]

#: {name: (module:function, help)}
COMMANDS = {
    "run": ("harp.cli.run:run", "Run a program under a grant."),
    "daemon": ("harp.cli.daemon:daemon", "Start, stop or look at harpd."),
    "devices": ("harp.cli.show:devices", "List the devices."),
    "ps": ("harp.cli.show:ps", "List tenants, their processes, and who evades."),
    "top": ("harp.cli.top:top", "Watch the tenants."),
    "trace": ("harp.cli.trace:trace", "Look at recorded driver calls, and make them again."),
    "metrics": ("harp.cli.metrics:metrics", "Print what Prometheus would be told."),
    "set": ("harp.cli.change:set_limits", "Change a tenant's limits."),
    "suspend": ("harp.cli.suspend:suspend", "Take a tenant's memory off its GPUs."),
    "resume": ("harp.cli.suspend:resume", "Bring a suspended tenant back."),
    "cdi": ("harp.cli.cdi:cdi", "A tenant as a device of podman and docker."),
    "remote": ("harp.cli.remote:remote", "GPUs for programs on other hosts."),
    "scheduler": ("harp.cli.scheduler:scheduler", "Place pods: Kubernetes' scheduler extender."),
    "doctor": ("harp.cli.doctor:doctor", "Find out why something does not work."),
    "demo": ("harp.cli.demo:demo", "Two trainings share a software GPU."),
    "sim": ("harp.cli.sim:sim", "Try policies on a model: GPU time, or placement."),
    "estimate": ("harp.cli.estimate:estimate", "Learn what jobs will need from those before."),
    "bench": ("harp.cli.bench:bench", "Measure shares, latency, memory and HARP's own cost."),
    "version": ("harp.cli.version:version", "Say the version."),
}


class _Table(click.Group):
    """Commands from COMMANDS."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Load one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), function)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The table's help, without loading the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_Table, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(harp.__version__, prog_name="harp")
def cli() -> None:
    """Split a GPU's memory and time among programs that know nothing of it."""


def main() -> None:
    """Entry point: errors become one line and a hint; exit status 1, or 2 for wrong usage."""
    environment.prepare()
    try:
        cli.main(prog_name="harp", standalone_mode=True)
    except HarpError as error:
        sys.exit(fail(error, as_json="--json" in sys.argv, status=1))
    except BrokenPipeError:
        # `harp ps | head`: the reader has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
