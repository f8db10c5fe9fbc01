# SPDX-License-Identifier: Apache-2.0
"""`python -m harp.softgpu compiler`: compiles kernels for containers that have no compiler.

This process becomes `harp-ptxc serve`, whose socket is for everybody: the folder that it lies in is
mounted into containers, and HARP_PTXC_SOCKET says where. What was compiled is kept in a folder that
no container sees.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from harp.errors import ConfigError, NativeError
from harp.native import scrub
from harp.softgpu.machine import binaries, compiler

__all__ = ["serve_compiler"]

_LIMITS = {
    "jobs": "kernels compiled at once (the processors, up to 16)",
    "timeout-s": "seconds that one may take (240)",
    "cache-mib": "MiB kept of what was compiled (1024)",
    "memory-mib": "MiB that one process of a compile may use (4096)",
}


def serve_compiler(arguments: Sequence[str], env: Mapping[str, str] = os.environ) -> int:
    """Does not return unless it fails.

    Raises:
        BuildMissing: this installation has no harp-ptxc.
        ConfigError: the socket's folder cannot be made.
        NativeError: there is no C compiler here either.
    """
    parser = argparse.ArgumentParser(prog="python -m harp.softgpu compiler", allow_abbrev=False)
    parser.add_argument("--socket", type=Path, required=True, help="its folder is made, if needed")
    parser.add_argument("--cache", type=Path, help="folder of what was compiled, its user's own")
    for name, text in _LIMITS.items():
        parser.add_argument(f"--{name}", type=int, help=text)
    options = parser.parse_args(arguments)
    program = binaries(env).ptxc
    if compiler(env) is None:
        raise NativeError("there is no C compiler here", "apt-get install gcc libc6-dev")
    socket = options.socket.absolute()
    try:
        if not socket.parent.is_dir():
            socket.parent.mkdir(parents=True, exist_ok=True)
            socket.parent.chmod(0o755)  # also under a strict umask: any user asks
    except OSError as error:
        raise ConfigError(f"{socket.parent}: {error.strerror}", "name another --socket") from error
    command = ["harp-ptxc", "serve", "--socket", str(socket)]
    command += ["--cache", str((options.cache or default_cache(env)).absolute())]
    for name in _LIMITS:
        value = getattr(options, name.replace("-", "_"))
        if value is not None:
            command += [f"--{name}", str(value)]
    os.execve(program, command, scrub(env))  # noqa: S606 - nothing of this process is wanted more
    return 1


def default_cache(env: Mapping[str, str]) -> Path:
    """Not the folder of this user's own programs: what others ask for may fill it."""
    if os.geteuid() == 0:
        return Path("/var/cache/harp/ptxc")
    home = env.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "harp" / "ptxc"
