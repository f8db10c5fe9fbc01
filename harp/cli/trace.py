# SPDX-License-Identifier: Apache-2.0
"""`harp trace`: what a recorded program did, in figures, in viewers, and once more."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile

import click
from rich.table import Table

from harp.cli.output import json_option, print_json, print_wide, progress
from harp.cli.trace_record import start, stop
from harp.cli.view import printable, short_size
from harp.errors import ConfigError, NoDevice, TraceError
from harp.native import NativeDir, driver_paths, native_dir
from harp.trace.apart import replay_apart
from harp.trace.entries import Recording
from harp.trace.export_chrome import chrome
from harp.trace.load import load
from harp.trace.report import Report, begins_late
from harp.trace.summary import Summary, summarize
from harp.trace.tape import images_of, tape

__all__ = ["trace"]

_SAID = 20  # divergences and functions in text
_FILE = click.Path(path_type=Path, dir_okay=False)
_REASONS = {
    "gated": "HARP held a call at its gate",
    "sync": "waited for the GPU in a call: not measured work, or somebody else's",
    "driver": "in another call: launching, loading, allocating",
    "host": "the program's own: no thread was in a call",
}


@click.group()
def trace() -> None:
    """Record driver calls, look at them, and make them again.

    A trace is made by `harp run --trace FILE -- CMD`, or of a tenant by `harp trace start`.
    """


trace.add_command(start)
trace.add_command(stop)


@trace.command()
@click.argument("file", type=_FILE)
@click.option("--top", type=click.IntRange(1), default=10, help="So many kernels and gaps.  [10]")
@json_option
def summary(*, file: Path, top: int, as_json: bool) -> None:
    """Say which kernels, copies and gaps took how long, and why the GPU was idle."""
    recording = load(file, arguments=False)
    found = summarize(recording, top=top)
    if as_json:
        print_json(found.as_json() | {"problems": list(recording.problems)})
        return
    _say(found)
    _warn(recording)


@trace.command()
@click.argument("file", type=_FILE)
@click.option(
    "--to",
    "kind",
    type=click.Choice(["perfetto", "chrome"]),
    required=True,
    help="perfetto: protobuf, for ui.perfetto.dev and trace_processor; needs the package perfetto."
    " chrome: JSON, for the same and chrome://tracing.",
)
@click.option("-o", "--output", "into", type=_FILE, required=True, help="The file to write.")
@json_option
def export(*, file: Path, kind: str, into: Path, as_json: bool) -> None:
    """Write a trace as other tools read it: a track a thread, a track a stream."""
    recording = load(file)
    try:
        size_bytes = _write(recording, kind, into)
    except OSError as error:
        raise ConfigError(f"{into}: {error.strerror}", "choose another -o FILE") from error
    _warn(recording)
    if as_json:
        print_json(
            {"file": str(into), "bytes": size_bytes, "calls": len(recording.entries), "to": kind}
        )
        return
    where = "https://ui.perfetto.dev" + (" or chrome://tracing" if kind == "chrome" else "")
    print(f"{into}: {len(recording.entries)} calls, {short_size(size_bytes)}; open it in {where}")


def _write(recording: Recording, kind: str, into: Path) -> int:
    """The file whole, or as it was; its size in bytes. Raises OSError."""
    if into.exists() and not into.is_file():
        raise ConfigError(f"{into} is no file: it would be one", "choose another -o FILE")
    with NamedTemporaryFile(dir=into.parent, prefix=".harp-export-", delete=False) as part:
        try:
            if kind == "perfetto":
                from harp.trace.export_perfetto import perfetto  # noqa: PLC0415 - an extra

                perfetto(recording, part)
            else:
                part.writelines(piece.encode() for piece in chrome(recording))
            part.flush()
            size_bytes = os.fstat(part.fileno()).st_size
            os.replace(part.name, into)  # noqa: PTH105 - a name of tempfile's
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise
    return size_bytes


@trace.command()
@click.argument("file", type=_FILE)
@click.option(
    "--backend",
    default="",
    metavar="soft|driver|PATH",
    help="The software GPU, this host's driver, or any libcuda.so.1.  [driver, else soft]",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="A folder of PTX and cubins, for those that the trace has only the hash of.",
)
@click.option(
    "--hang",
    "hang_s",
    type=click.FloatRange(min=0.1),
    default=60.0,
    metavar="SECONDS",
    help="A call that takes longer ends the replay.  [60]",
)
@json_option
def replay(*, file: Path, backend: str, images: Path | None, hang_s: float, as_json: bool) -> None:
    """Make the recorded calls again, in order, and name each that comes out differently.

    Exit status 0: all that was made came out the same; 1: something did not. Host data is the
    trace's where it was recorded (--trace-data), else zeroes: then only results and answers are
    compared.
    """
    library = _library(backend)
    played = tape(file, images=images_of(images) if images else None)
    report = replay_apart(played, library, hang_s=hang_s)
    if as_json:
        print_json(report.as_json() | {"backend": str(library)})
    else:
        _say_report(report, library)
    if played.missing:
        progress(
            f"harp: warning: {_count(len(played.missing), 'image')} not in the trace; remedy:"
            " record with --trace-data, or name their folder with --images"
        )
    if late := begins_late(played.header, report):
        progress(f"harp: hint: {late}")
    if report.same and report.calls and not report.made:
        raise TraceError(f"{file}: not one of its calls could be made", "see what was not made")
    sys.exit(0 if report.same else 1)


def _library(backend: str) -> Path:
    """The libcuda that a replay calls."""
    if backend == "soft":
        return NativeDir(native_dir()).soft_cuda
    real = driver_paths(os.environ).cuda
    if backend == "driver" and real is None:
        raise NoDevice("this host has no driver (libcuda.so.1)", "--backend soft, or a PATH")
    if backend in ("", "driver"):
        return real or NativeDir(native_dir()).soft_cuda
    if not Path(backend).is_file():
        raise ConfigError(f"--backend {backend}: no such file", "soft, driver, or a libcuda.so.1")
    return Path(backend).absolute()


def _say_report(report: Report, library: Path) -> None:
    """Divergences, call by call; what was left out; times."""
    for d in report.divergences[:_SAID]:
        print(
            f"call {d.call} {printable(d.function)}: {printable(d.what)}: recorded"
            f" {printable(d.was)}, came {printable(d.now)}"
        )
    if len(report.divergences) > _SAID:
        print(f"and {len(report.divergences) - _SAID} more: --json has them all")
    table = _table("FUNCTION", "CALLS", "RECORDED", "NOW", "RATIO")
    for name, t in sorted(report.times.items(), key=lambda row: -row[1].was_ns)[:_SAID]:
        ratio = f"{t.now_ns / t.was_ns:.2f}" if t.was_ns else "-"
        table.add_row(printable(name), str(t.calls), _time(t.was_ns), _time(t.now_ns), ratio)
    if report.times:
        print_wide(table)
    for why, left in report.left_out.items():
        print(
            f"not made: {_count(left.count, 'call')}, the first {left.first}"
            f" {printable(left.function)}: {printable(why)}"
        )
    if report.unread:
        print(f"{_count(report.unread, 'call')} compared by result alone: answers make no sense")
    told = f"{report.made} of {_count(report.calls, 'call')} made on {library}"
    if report.same:
        data = f", {short_size(report.compared_bytes)} of data" if report.compared_bytes else ""
        print(f"{told}: the same results and answers{data}")
    else:
        print(f"{told}: {_count(len(report.divergences), 'divergence')}")


def _say(found: Summary) -> None:
    """Sentences and tables."""
    name = printable(found.program) or "a program"
    threads = _count(found.threads, "thread")
    print(
        f"{name} (pid {found.pid}): {_count(found.calls, 'call')} of {threads} in"
        f" {_time(found.wall_ns)}; device busy {_part(found.busy_ns, found.wall_ns)}"
    )
    if found.devices:
        kind = ": software, no figure is a GPU's" if found.software else ""
        print(f"on {', '.join(map(printable, found.devices))}{kind}")
    if found.measured < found.measurable:
        print(
            f"device times are known of {found.measured} of {found.measurable} launches, copies"
            " and fills: what is not known counts as idle"
        )
    if found.kernels:
        table = _table("KERNEL", "LAUNCHES", "MEASURED", "TOTAL", "MEAN", "LONGEST", "OF BUSY")
        for k in found.kernels:
            times = (_time(k.device_ns), _time(k.mean_ns), _time(k.longest_ns))
            told = (*times, _part(k.device_ns, found.busy_ns)) if k.measured else ("-",) * 4
            table.add_row(printable(k.name), str(k.launches), str(k.measured), *told)
        print_wide(table)
    if found.copies:
        table = _table("COPY", "COUNT", "SIZE", "TIME", "RATE")
        for c in found.copies:
            rate = f"{c.rate_bytes_s / 1e9:.2f} GB/s" if c.time_ns else "-"
            timed = _time(c.time_ns) if c.time_ns else "-"
            table.add_row(c.what, str(c.count), short_size(c.size_bytes), timed, rate)
        print_wide(table)
    table = _table("IDLE", "TIME", "OF ALL", left=1)
    table.add_column("WHY", overflow="fold")
    for reason, spent_ns in found.idle_ns.items():
        of_all = _part(spent_ns, found.wall_ns)
        table.add_row(reason, _time(spent_ns), of_all, _REASONS[reason])
    print_wide(table)
    if found.gaps:
        table = _table(f"GAP (of {found.gap_count})", "AT", "FROM CALL", "TO CALL", "MOSTLY")
        for g in found.gaps:
            calls = (str(g.before), str(g.after))
            table.add_row(_time(g.end_ns - g.start_ns), _time(g.start_ns), *calls, g.reason)
        print_wide(table)
    for function, result, count in found.errors:
        print(f"{printable(function)} answered {result}: {_count(count, 'time')}")


def _table(*columns: str, left: int = 1) -> Table:
    """A table of figures: the first `left` columns are words."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for at, column in enumerate(columns):
        if at < left:
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table


def _warn(recording: Recording) -> None:
    """What of the trace is not there."""
    if recording.lost:
        progress(f"harp: warning: {recording.lost} records are not in the trace: it was full")
    if recording.unfinished:
        progress("harp: the trace has no end: its program still runs, or was killed")
    for problem in recording.problems[:5]:
        progress(f"harp: warning: {printable(problem)}")
    if len(recording.problems) > 5:
        progress(f"harp: warning: and {len(recording.problems) - 5} more like these")


def _time(value_ns: float) -> str:
    """A duration with three digits or so."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if value_ns >= size:
            return f"{value_ns / size:.2f} {unit}"
    return f"{value_ns:.0f} ns"


def _part(value_ns: float, whole_ns: float) -> str:
    return f"{100 * value_ns / whole_ns:.1f}%" if whole_ns else "-"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
