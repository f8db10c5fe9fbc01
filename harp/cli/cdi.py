# SPDX-License-Identifier: Apache-2.0
"""`harp cdi`: a tenant as a device of plain containers."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from harp.api.v1 import control_pb2 as pb
from harp.cdi import KIND, Things, device_name, file_name, spec, tenant_of
from harp.cli.environment import as_given
from harp.cli.output import (
    CLASSES,
    json_option,
    limit_options,
    print_json,
    progress,
)
from harp.cli.start import connect_or_start
from harp.client import Client
from harp.discovery.nodes import beside_driver, device_nodes
from harp.errors import ConfigError, NotOwner, RunDirUnsafe, UnknownTenant
from harp.inject import Backing, shim_dir, soft_dir
from harp.model import TenantClass
from harp.native import NativeDir, find
from harp.rundir import check_socket

__all__ = ["cdi"]

_BACKLOG = 128
_SOCKET = "arbiter.sock"
_LOCK = ".lock"  # no tenant of a device is called so
_CLASS_OF = {
    TenantClass.STANDARD.label: pb.TENANT_CLASS_STANDARD,
    TenantClass.LATENCY.label: pb.TENANT_CLASS_LATENCY,
    TenantClass.BEST_EFFORT.label: pb.TENANT_CLASS_BEST_EFFORT,
}
_SOFT_DIR = re.compile(r" (/\S*/harp-soft-[0-9a-f]{8})/")


@dataclass(frozen=True, slots=True)
class Places:
    """Folders: of descriptions, of what containers have mounted, of grants."""

    output: Path
    state: Path
    grants: Path


@click.command()
@click.argument("tenant")
@click.option("--gpu", default="", metavar="I|UUID[,...]", help="As for `harp run`.")
@limit_options
@click.option("--oversubscribe", is_flag=True, help="As for `harp run`.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/etc/cdi"),
    show_default=True,
    help="Folder that the container runtime reads.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/var/lib/harp"),
    show_default=True,
    help="Folder of the libraries that containers mount; root's.",
)
@click.option(
    "--compiler",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Software GPU: socket of `python -m harp.softgpu compiler`, called sock.",
)
@click.option(
    "--remove", is_flag=True, help="Take the device away, and the tenant it was made for."
)
@json_option
def cdi(
    *,
    tenant: str,
    gpu: str,
    mem: int,
    host_mem: int,
    share: int,
    limit: int,
    klass: str,
    oversubscribe: bool,
    output: Path,
    state: Path,
    compiler: Path | None,
    remove: bool,
    as_json: bool,
) -> None:
    """Describe TENANT as a device for podman and docker: --device harp.dev/tenant=TENANT.

    A tenant that is not there is made, with the limits given; it lives until it is removed.
    """
    asked = pb.CreateTenantRequest(
        name=tenant,
        gpu=gpu,
        mem_limit_bytes=mem,
        host_limit_bytes=host_mem,
        share_ppm=share,
        limit_ppm=limit,
        tenant_class=_CLASS_OF[klass],
        oversubscribe=oversubscribe,
        any_uid=True,
        held=True,
        program="container",
    )
    wished = any((gpu, mem, host_mem, share, limit, oversubscribe)) or klass != CLASSES[0]
    device_name(tenant)
    if os.geteuid() != 0:
        raise NotOwner("only root describes devices for containers", "sudo harp cdi ...")
    if remove and wished:
        raise click.UsageError("--remove goes without limits")
    env = as_given()
    client, started = connect_or_start(env)
    with client:
        if started:
            progress("harp: started harpd")
        places = Places(output.absolute(), state.absolute(), client.run_dir.path / "cdi")
        with _alone(places):
            living = {one.name: one for one in client.state().tenants}
            gone = [name for name in _sweep(places, living) if name != tenant]
            for name in gone:
                progress(f"harp: tenant {name} has ended: its device is removed")
            if remove:
                answer = _remove(client, places, tenant, living.get(tenant))
            else:
                there = living.get(tenant)
                if there is not None and wished:
                    raise ConfigError(
                        f"tenant {tenant} is there already", f"harp set {tenant} changes its limits"
                    )
                if there is None and not wished:
                    raise UnknownTenant(
                        f"no tenant is called {tenant}", "say its limits to make it: --mem, --share"
                    )
                answer = _describe(client, places, there or asked, find(env), compiler)
    if as_json:
        print_json({**answer, "swept": gone})
    elif remove:
        click.echo(f"{KIND}={tenant} is removed")
    else:
        click.echo(f"{answer['device']}  {answer['spec']}")
        click.echo(f"podman run --device {answer['device']} IMAGE CMD...")


@contextlib.contextmanager
def _alone(places: Places) -> Iterator[None]:
    """One such command at a time: a second would take the first's new folder for a left one."""
    places.grants.mkdir(mode=0o700, parents=True, exist_ok=True)
    places.grants.chmod(0o700)
    with (places.grants / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _describe(
    client: Client,
    places: Places,
    what: pb.Tenant | pb.CreateTenantRequest,
    native: NativeDir,
    compiler: Path | None,
) -> dict[str, object]:
    """Write the file of a tenant, which is made if need be."""
    info = client.info()
    software = info.kind == pb.DEVICE_KIND_SOFTWARE
    check_path(places.state, make=True)
    hook = _hook(native, places.state)
    shim = shim_dir(native, places.state, keep_old=True)
    backing = Backing(Path(info.cuda_path), Path(info.nvml_path))
    if software:
        backing = soft_dir(native, places.state, keep_old=True)
    made = isinstance(what, pb.CreateTenantRequest)
    one = _make(client, places, what) if isinstance(what, pb.CreateTenantRequest) else what
    try:
        things = Things(
            hook,
            shim,
            grant_folder(one),
            backing,
            list(one.device_uuids),
            beside=() if software else beside_driver(backing.cuda),
            nodes=() if software else device_nodes(list(one.device_uuids)),
            soft=_soft_state(info.pid) if software else None,
            ptxc=_compiler(client, compiler) if software else None,
        )
        path = _write(places.output, one.name, spec(one.name, things))
    except BaseException:
        if made:
            _remove(client, places, one.name, one)
        raise
    if software and things.ptxc is None:
        progress(
            "harp: kernels compile only in images with a C compiler; for the others, run"
            f" python -m harp.softgpu compiler --socket {client.run_dir.path}/ptxc/sock"
        )
    return {
        "tenant": one.name,
        "device": f"{KIND}={one.name}",
        "spec": str(path),
        "made": made,
        "device_uuids": list(one.device_uuids),
        "mem_limit_bytes": one.mem_limit_bytes,
        "share_ppm": one.share_ppm,
        "limit_ppm": one.limit_ppm,
        "software": software,
    }


def grant_folder(tenant: pb.Tenant) -> Path:
    """Where the folder of a tenant lies that containers have mounted, whatever links lead there.

    Raises:
        ConfigError: it is there no more.
        RunDirUnsafe: its user could put another tenant's in its place, or none.
    """
    try:
        folder = Path(tenant.grant_dir).resolve(strict=True)
    except OSError as error:
        raise ConfigError(
            f"the folder of tenant {tenant.name} is not there: {tenant.grant_dir}",
            f"harp cdi {tenant.name} --remove; then make it with its limits",
        ) from error
    check_path(folder)
    return folder


def _make(client: Client, places: Places, asked: pb.CreateTenantRequest) -> pb.Tenant:
    """The tenant, held by harpd; its folder is root's alone until a container has it mounted."""
    folder = places.grants / asked.name
    path = folder / _SOCKET
    check_socket(path, "choose a shorter name")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    folder.chmod(0o755)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as sock:
            sock.bind(str(path))
            path.chmod(0o666)
            sock.listen(_BACKLOG)
            asked.grant_dir = str(folder)
            asked.ticket = client.deposit(sock)
            return client.create(asked).tenant
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _remove(
    client: Client, places: Places, name: str, there: pb.Tenant | None
) -> dict[str, object]:
    """Take away the file, and a tenant that was made for it."""
    path = places.output / file_name(name)
    described = path.exists()
    made = there is not None and there.held and Path(there.grant_dir).parent == places.grants
    if not described and not made:
        raise UnknownTenant(f"{path} is not there, nor is a tenant that `harp cdi {name}` made")
    path.unlink(missing_ok=True)
    if made:
        client.remove(name)
        shutil.rmtree(places.grants / name, ignore_errors=True)
    return {"tenant": name, "removed": described, "ended": made}


def _sweep(places: Places, living: Mapping[str, pb.Tenant]) -> list[str]:
    """Remove the files of tenants that are no more: their containers would not start."""
    swept = []
    for path in sorted(places.output.glob("*.json")):
        name = tenant_of(path.name)
        if name is not None and name not in living:
            path.unlink(missing_ok=True)
            swept.append(name)
    return swept


def _write(folder: Path, name: str, content: Mapping[str, object]) -> Path:
    """The whole file or none: a runtime may be reading."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    check_path(folder)
    path = folder / file_name(name)
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".harp-", delete=False) as file:
        try:
            json.dump(content, file, indent=2)
            file.write("\n")
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            Path(file.name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(file.name).unlink()
            raise
    return path


def _hook(native: NativeDir, state: Path) -> Path:
    """A copy of the hook that root runs: this installation may be a user's to write to."""
    content = native.file("harp-cdi-hook").read_bytes()
    folder = state / "cdi"
    folder.mkdir(mode=0o755, exist_ok=True)
    check_path(folder)
    path = folder / f"hook-{hashlib.sha256(content).hexdigest()[:16]}"
    if path.exists() and path.read_bytes() == content:
        check_path(path)
        return path
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".hook-", delete=False) as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), 0o755)
    Path(file.name).replace(path)
    return path


def check_path(path: Path, *, make: bool = False) -> None:
    """Whether nobody but root can change what is at `path`, which root runs or mounts.

    Raises:
        RunDirUnsafe: somebody else could.
    """
    if make and not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o755)  # also under a strict umask: containers run as any user
    real = path.resolve()
    for part in (real, *real.parents):
        found = part.stat()
        others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        # In a folder like /tmp others can make files, but not take ours away.
        shared = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX and part != real
        if found.st_uid != 0 or (others and not shared):
            raise RunDirUnsafe(
                f"{part} is not root's alone to write to (uid {found.st_uid}, mode"
                f" {stat.S_IMODE(found.st_mode):o}): what lies in it would be run by root",
                "name another folder, or take the right to write to it from others",
            )


def _compiler(client: Client, chosen: Path | None) -> Path | None:
    """The folder with the socket of the software GPU's compiler."""
    path = (chosen or client.run_dir.path / "ptxc" / "sock").absolute()
    if path.name != "sock":
        raise ConfigError(f"--compiler {path}: containers look for a socket called sock")
    if path.is_socket():
        return path.parent
    if chosen is not None:
        raise ConfigError(
            f"no socket is at {path}", f"python -m harp.softgpu compiler --socket {path}"
        )
    return None


def _soft_state(harpd: int) -> Path:
    """Folder of the software GPU that harpd has: said in its environment, or else its own choice.

    Raises:
        ConfigError: it cannot be told.
    """
    with contextlib.suppress(OSError):
        process = Path(f"/proc/{harpd}")
        for entry in (process / "environ").read_bytes().split(b"\0"):
            name, _, value = entry.partition(b"=")
            if name == b"HARP_SOFT_DIR" and value:
                return Path(os.fsdecode(value))
        if found := _SOFT_DIR.search((process / "maps").read_text()):
            return Path(found[1])
    raise ConfigError(
        f"harpd (pid {harpd}) does not say where its software GPU is", "set HARP_SOFT_DIR for it"
    )
