# SPDX-License-Identifier: Apache-2.0
"""A tenant as a CDI device (Container Device Interface): what `podman --device` and docker read.

The same folders as a pod has: all of ours lies under /opt/harp, and what is mounted there decides,
whatever the environment says. Over the driver's names our libraries are laid by the hook
(native/src/cdi): only it comes after what other hooks of the runtime have put there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harp.errors import ConfigError
from harp.inject import Backing, tenant_env

__all__ = ["INSIDE", "KIND", "Things", "device_name", "file_name", "spec", "tenant_of"]

KIND = "harp.dev/tenant"
#: our folder in a container
INSIDE = Path("/opt/harp")
_SHIM, _GRANT, _DRIVER = INSIDE / "shim", INSIDE / "grant", INSIDE / "driver"
_SOFT, _PTXC = INSIDE / "soft", INSIDE / "ptxc"
#: the oldest that have all we use: the second, names that begin with a digit
_VERSIONS = ("0.3.0", "0.5.0")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]{0,62}[A-Za-z0-9])?")
_STEM = "harp.dev-tenant-"


@dataclass(frozen=True, slots=True)
class Things:
    """What a tenant's containers get of this host, as host paths."""

    hook: Path
    shim: Path  #: folder of the shim's libraries
    grant: Path  #: the tenant's folder
    backing: Backing  #: the driver's libraries
    uuids: Sequence[str]  #: the tenant's devices, in its order
    beside: Sequence[Path] = ()  #: libraries that the driver opens by name
    nodes: Sequence[str] = ()  #: device nodes
    soft: Path | None = None  #: state of the software GPU, shared with the host
    ptxc: Path | None = None  #: folder of the socket of its compiler, "sock"


def device_name(tenant: str) -> str:
    """The device's name, which is the tenant's.

    Raises:
        ConfigError: CDI has no such names.
    """
    if not _NAME.fullmatch(tenant):
        raise ConfigError(
            f"{tenant!r} is no name of a CDI device",
            "letters, digits, and _ . : - between them, 64 at most",
        )
    return tenant


def file_name(tenant: str) -> str:
    """Of the file that describes it."""
    return f"{_STEM}{device_name(tenant)}.json"


def tenant_of(name: str) -> str | None:
    """Whose file it is; None: not one of ours."""
    if not (name.startswith(_STEM) and name.endswith(".json")):
        return None
    tenant = name.removeprefix(_STEM).removesuffix(".json")
    return tenant if _NAME.fullmatch(tenant) else None


def spec(tenant: str, things: Things) -> dict[str, object]:
    """What the file says."""
    backing = Backing(_DRIVER / "libcuda.so.1", _DRIVER / "libnvidia-ml.so.1")
    env = tenant_env({}, grant_dir=_GRANT, shim=_SHIM, backing=backing)
    del env["LD_LIBRARY_PATH"]  # the image's own stays
    del env["HARP_LOG"]  # the grant's folder is read-only in there
    env["CUDA_VISIBLE_DEVICES"] = ",".join(things.uuids)
    # Where NVIDIA's runtime is the default, it would add what the image asks for: all GPUs.
    env["NVIDIA_VISIBLE_DEVICES"] = "void"
    mounts = [_mount(_SHIM, things.shim), _mount(_GRANT, things.grant)]
    if things.soft is None:
        mounts += [_mount(backing.cuda, things.backing.cuda.resolve())]
        mounts += [_mount(backing.nvml, things.backing.nvml.resolve())]
        mounts += [_mount(_DRIVER / path.name, path.resolve()) for path in things.beside]
    else:
        mounts += [_mount(_DRIVER, things.backing.cuda.parent)]
        mounts += [_mount(_SOFT, things.soft, writable=True)]
        env["HARP_SOFT_DIR"] = str(_SOFT)
    if things.ptxc is not None:
        mounts += [_mount(_PTXC, things.ptxc)]
        env["HARP_PTXC_SOCKET"] = str(_PTXC / "sock")
    edits: dict[str, object] = {
        "env": [f"{name}={value}" for name, value in sorted(env.items())],
        "mounts": mounts,
        "hooks": [{"hookName": "createContainer", "path": str(things.hook)}],
    }
    if things.nodes:
        edits["deviceNodes"] = [{"path": path} for path in things.nodes]
    return {
        "cdiVersion": _VERSIONS[tenant[0].isdigit()],
        "kind": KIND,
        "devices": [{"name": device_name(tenant), "containerEdits": edits}],
    }


def _mount(inside: Path, host: Path, *, writable: bool = False) -> dict[str, object]:
    options = ["rbind", "nosuid", "nodev", "rw" if writable else "ro"]
    return {"hostPath": str(host), "containerPath": str(inside), "options": options}
