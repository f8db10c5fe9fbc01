# SPDX-License-Identifier: Apache-2.0
"""The doctor's checks: each looks at one thing and says what it saw and what to do."""

from __future__ import annotations

import contextlib
import enum
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harp.api.v1 import control_pb2 as pb
from harp.cli.view import memory_notes, printable, swapping_lines
from harp.errors import BuildMissing, HarpError
from harp.native import NativeDir, driver_paths, is_injected
from harp.procs import environ_of, name_of, read
from harp.rundir import RunDir, user_dir
from harp.units import format_size

__all__ = ["Check", "Verdict", "installation", "machine", "process", "unreachable"]

_UNKNOWN_NAME = re.compile(
    r"pid=(?P<pid>\d+) unknown_name name=(?P<name>\w+) withheld=(?P<count>\d+)"
)
_COMPILERS = ("cc", "gcc", "clang", "tcc")


class Verdict(enum.Enum):
    """How a check ended."""

    OK = "ok"
    NOTE = "note"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's."""

    name: str
    verdict: Verdict
    text: str
    remedy: str = ""


def installation(native: NativeDir, env: Mapping[str, str]) -> Iterator[Check]:
    """The built files, the driver, the compiler, the user's folder."""
    try:
        found = [
            native.libharp,
            native.libharp_nvml,
            native.soft_cuda,
            native.soft_nvml,
            native.arbiter,
            native.ptxc,
        ]
        yield Check("built files", Verdict.OK, f"{len(found)} in {native.path}")
    except BuildMissing as error:
        yield Check("built files", Verdict.FAIL, error.message, error.hint)
    try:
        paths = driver_paths(env)
        if paths.cuda and paths.nvml:
            yield Check("driver", Verdict.OK, f"{paths.cuda}, {paths.nvml}")
        else:
            missing = [
                n
                for n, p in (("libcuda.so.1", paths.cuda), ("libnvidia-ml.so.1", paths.nvml))
                if p is None
            ]
            yield Check(
                "driver",
                Verdict.NOTE,
                f"no NVIDIA driver: {', '.join(missing)} not found; the software GPU is used",
            )
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        yield Check("driver", Verdict.WARN, f"cannot ask the dynamic loader: {error}")
    compiler = next((c for c in _COMPILERS if shutil.which(c, path=env.get("PATH"))), None)
    if compiler:
        yield Check("compiler", Verdict.OK, f"{compiler}, for the software GPU's kernels")
    else:
        yield Check(
            "compiler",
            Verdict.WARN,
            "no C compiler: the software GPU cannot run kernels it has not compiled before",
            "apt install gcc",
        )
    yield _folder(user_dir(env))


def _folder(path: Path) -> Check:
    base = path if path.exists() else path.parent
    flags = os.statvfs(base).f_flag
    if flags & os.ST_NOEXEC:
        return Check(
            "user folder",
            Verdict.FAIL,
            f"{base} is mounted noexec: injected libraries in it cannot be loaded",
            "set XDG_RUNTIME_DIR to a folder of yours on another mount",
        )
    return Check("user folder", Verdict.OK, str(path))


def machine(
    run_dir: RunDir, info: pb.GetInfoReply, state: pb.GetStateReply, version: str
) -> Iterator[Check]:
    """The daemon, the arbiter, the devices, who evades."""
    if info.version != version:
        yield Check(
            "harpd",
            Verdict.WARN,
            f"harpd is {info.version}, this is {version}",
            "harp daemon --upgrade: tenants go on meanwhile",
        )
    else:
        yield Check("harpd", Verdict.OK, f"pid {info.pid}, uid {info.uid}, in {run_dir.path}")
    arbiter = read(info.arbiter_pid)
    if arbiter is None or arbiter.zombie:
        yield Check("arbiter", Verdict.FAIL, f"process {info.arbiter_pid} is gone", "see its log")
    elif older := _other_program(info):
        yield Check(
            "arbiter",
            Verdict.WARN,
            f"pid {info.arbiter_pid} runs {older}, which is not the one installed",
            "harp daemon --upgrade: tenants go on meanwhile",
        )
    else:
        again = f", restarted {info.arbiter_restarts} times" if info.arbiter_restarts else ""
        yield Check("arbiter", Verdict.OK, f"pid {info.arbiter_pid}{again}")
    yield _time(info)
    for device in state.devices:
        held = sorted(t.name for t in state.tenants if device.uuid in t.device_uuids)
        tenants = f"; tenants: {', '.join(held)}" if held else ""
        software = device.kind == pb.DEVICE_KIND_SOFTWARE
        kind = "software, not a GPU" if software else f"driver {device.driver_version}"
        if device.context_source == "default":
            yield Check(
                f"GPU {device.index}",
                Verdict.WARN,
                f"{device.name} ({kind}); what a context costs could not be measured",
                f"see {info.log_path}; device.overhead_bytes is taken instead",
            )
        else:
            yield Check(f"GPU {device.index}", Verdict.OK, f"{device.name} ({kind}){tenants}")
    yield from _contexts(state)
    yield from _above_limit(state)
    yield from _elsewhere(state)
    if info.kind == pb.DEVICE_KIND_SOFTWARE:
        yield Check(
            "cudart",
            Verdict.NOTE,
            "programs that use the CUDA runtime API (libcudart, PyTorch, CuPy) cannot run on the"
            " software GPU: libcudart talks to the driver through private tables, which HARP does"
            " not imitate; driver-API programs (tinygrad, cuda-python, PyCUDA, numba) can",
        )
    for one in state.uncovered:
        whose = f"of tenant {one.tenant} (by {one.evidence})" if one.tenant else "outside HARP"
        yield Check(
            "uncovered",
            Verdict.WARN,
            f"pid {one.pid} ({printable(one.name)}) {whose} uses the GPU without a session:"
            f" {one.action}",
            f"harp doctor --pid {one.pid} says why" if one.tenant else "",
        )
    if not state.uncovered:
        yield Check("uncovered", Verdict.OK, "every process on the devices has a session")
    yield from _refused_names(state)


_SOURCES = {
    "measured": "measured by a probe",
    "cached": "measured by a probe, earlier",
    "seen": "as programs' contexts were seen to cost",
    "default": "a guess: device.overhead_bytes",
}


def _contexts(state: pb.GetStateReply) -> Iterator[Check]:
    """What a context is taken to cost, by model and driver."""
    for device in {(d.name, d.driver_version): d for d in state.devices}.values():
        size = format_size(device.context_bytes >> 20 << 20)
        seen = f"; the last {device.context_seen} programs' compared" if device.context_seen else ""
        yield Check(
            "contexts",
            Verdict.NOTE if device.context_source == "default" else Verdict.OK,
            f"{size} each on {device.name}, driver {device.driver_version}"
            f" ({_SOURCES.get(device.context_source, device.context_source)}{seen})",
        )


def _above_limit(state: pb.GetStateReply) -> Iterator[Check]:
    """Tenants that get no new memory because they are above their limit already."""
    devices = {d.uuid: d for d in state.devices}
    for tenant in state.tenants:
        if tenant.over_limit_bytes:
            yield Check(
                "memory",
                Verdict.WARN,
                "; ".join(memory_notes(tenant, devices)),
                f"harp set {tenant.name} --mem ..., or free some in the program",
            )


def _elsewhere(state: pb.GetStateReply) -> Iterator[Check]:
    """Tenants' memory that lies on the host, by request, in turn, or pinned by themselves."""
    devices = {d.uuid: d for d in state.devices}
    for tenant in state.tenants:
        if tenant.suspended:
            yield Check(
                "suspended",
                Verdict.NOTE,
                f"{tenant.name}: its programs wait, {format_size(tenant.host_bytes)} on the host",
                f"harp resume {tenant.name}",
            )
        stuck = any(use.residency.stuck for use in tenant.uses)
        for line in swapping_lines(tenant, devices, state.now_s):
            yield Check(
                "oversubscription",
                Verdict.WARN if stuck else Verdict.NOTE,
                line,
                f"{tenant.grant_dir}/shim.log says why it stays" if stuck else "",
            )
        if tenant.host_limit_bytes:
            full = tenant.host_leased_bytes >= tenant.host_limit_bytes
            yield Check(
                "pinned memory",
                Verdict.WARN if full else Verdict.OK,
                f"{tenant.name}: {format_size(tenant.host_leased_bytes)} of"
                f" {format_size(tenant.host_limit_bytes)}",
                f"harp set {tenant.name} --host-mem ..., or free some in the program"
                if full
                else "",
            )


def _other_program(info: pb.GetInfoReply) -> str:
    """The arbiter's program, if it is not harpd's; "" too if it is not to be seen."""
    with contextlib.suppress(OSError):
        runs = os.readlink(f"/proc/{info.arbiter_pid}/exe")  # noqa: PTH115 - may end in " (deleted)"
        ours = Path(info.native_dir, "harp-arbiter").resolve(strict=True)
        return "" if runs == str(ours) else runs
    return ""


def _time(info: pb.GetInfoReply) -> Check:
    """How the arbiter that runs divides GPU time."""
    said = f"policy {info.time_policy}, quantum {info.quantum_us} us, burst {info.burst_us} us"
    if info.time_stale:
        return Check(
            "GPU time",
            Verdict.WARN,
            f"{said}; the arbiter was started with other settings: {info.time_stale}",
            "harp daemon --upgrade, with the --set of now: tenants go on meanwhile",
        )
    return Check("GPU time", Verdict.OK, said)


def _refused_names(state: pb.GetStateReply) -> Iterator[Check]:
    """Driver functions that tenants with limits asked for and HARP does not know."""
    #: {(process, function): refusals}; the shim's log has the running total of each process
    counts: dict[tuple[str, str], int] = {}
    for tenant in state.tenants:
        with contextlib.suppress(OSError):
            log = Path(tenant.grant_dir) / "shim.log"
            for found in _UNKNOWN_NAME.finditer(log.read_text(errors="replace")):
                counts[found["pid"], found["name"]] = int(found["count"])
    if counts:
        names = sorted({name for _, name in counts})
        yield Check(
            "unknown names",
            Verdict.WARN,
            f"{len(names)} driver functions were refused {sum(counts.values())} times to tenants"
            f" with limits: {', '.join(names[:8])}",
            "HARP must learn them (native/api): an unknown allocator would be a hole",
        )


def process(pid: int, state: pb.GetStateReply) -> Iterator[Check]:
    """Whether injection reached one process."""
    found = read(pid)
    if found is None or found.zombie:
        yield Check("process", Verdict.FAIL, f"there is no process {pid}")
        return
    name = printable(name_of(pid)[0])
    owner = next((t for t in state.tenants for c in t.clients if c.pid == pid), None)
    if owner is not None:
        yield Check("session", Verdict.OK, f"{pid} ({name}) is a client of tenant {owner.name}")
    else:
        yield Check(
            "session",
            Verdict.NOTE,
            f"{pid} ({name}) has no session with the arbiter (no GPU use yet, or uncovered)",
        )
    try:
        mapped = _mapped(pid)
    except OSError as error:
        yield Check(
            "libraries", Verdict.WARN, f"cannot read its mappings: {error.strerror}", "be its user"
        )
        return
    grant = environ_of(pid, "HARP_GRANT")
    if grant is None:
        yield Check(
            "environment",
            Verdict.FAIL,
            "it started without HARP_GRANT: not under `harp run`, or with a cleared environment",
            "start it with harp run, without env -i or sudo in between",
        )
    else:
        yield Check("environment", Verdict.OK, f"HARP_GRANT={grant}")
        preload = environ_of(pid, "LD_PRELOAD") or ""
        if not any(is_injected(Path(p)) for p in preload.replace(" ", ":").split(":") if p):
            yield Check(
                "LD_PRELOAD",
                Verdict.WARN,
                f"it was overwritten ({preload or 'empty'}); LD_LIBRARY_PATH may still help",
                'add to it: LD_PRELOAD="mine.so:$LD_PRELOAD"',
            )
    ours = [p for p in mapped if is_injected(Path(p))]
    driver = [
        p for p in mapped if Path(p).name.startswith("libcuda.so") and not is_injected(Path(p))
    ]
    if ours:
        yield Check("libraries", Verdict.OK, f"HARP is in it: {', '.join(sorted(ours))}")
    elif driver:
        yield Check(
            "libraries",
            Verdict.FAIL,
            f"it uses the driver without HARP: {driver[0]}",
            "an own copy of libcuda, a static or setuid program, or a cleared environment",
        )
    else:
        yield Check(
            "libraries",
            Verdict.FAIL if grant else Verdict.NOTE,
            "neither HARP nor a driver library is in it",
            "a static or setuid program takes no injected library" if grant else "",
        )


def _mapped(pid: int) -> set[str]:
    lines = (Path("/proc") / str(pid) / "maps").read_text(errors="replace").splitlines()
    return {
        line[line.index("/") :] for line in lines if "/" in line and not line.endswith("(deleted)")
    }


def unreachable(error: HarpError) -> Check:
    """The daemon did not answer."""
    return Check("harpd", Verdict.WARN, error.message, error.hint)
