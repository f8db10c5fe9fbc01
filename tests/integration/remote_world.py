# SPDX-License-Identifier: Apache-2.0
"""A listener that starts a harp-worker for each connection, as a node's daemon does."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["Serving", "client_env", "serving"]


def client_env(native: Path, folder: Path, remote: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Of a program whose GPU is behind the socket `remote`; what it needs is put into `folder`."""
    library, libraries = native / "libharp.so", folder / "remote-lib"
    libraries.mkdir(exist_ok=True)
    for name in ("libcuda.so", "libcuda.so.1"):  # for who looks for files
        if not (libraries / name).exists():
            (libraries / name).symlink_to(library)
    return {
        **env,
        "HARP_REMOTE": str(remote),
        "LD_PRELOAD": str(library),
        "LD_LIBRARY_PATH": str(libraries),
    }


class Serving:
    """Sessions on one socket; `env` is that of the workers to come, and may be changed."""

    def __init__(
        self, native: Path, folder: Path, env: Mapping[str, str], driver: Path | None = None
    ) -> None:
        self.env = dict(env)
        #: what workers are started by, before their own command
        self.by: list[str] = []
        #: what workers open: the software GPU, or libharp, whose tenants they are then
        self.driver = driver or native / "soft" / "libcuda.so.1"
        self.path = folder / "remote.sock"
        self.workers: list[subprocess.Popen[bytes]] = []
        #: connections taken whose worker is not in the list yet
        self._begun = 0
        self._native = native
        self._folder = folder
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(16)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._begun += 1
            with connection:
                fd = connection.fileno()
                command = [*self.by, self._native / "harp-worker", "--socket", str(fd)]
                command += ["--driver", self.driver]
                self.workers.append(
                    subprocess.Popen(command, env=self.env, pass_fds=(fd,), close_fds=True)
                )
            self._begun -= 1

    def client_env(self, env: Mapping[str, str]) -> dict[str, str]:
        """Of a program whose GPU is behind the socket."""
        return client_env(self._native, self._folder, self.path, env)

    def worker(self, timeout_s: float = 20) -> subprocess.Popen[bytes]:
        """The first; a program may have its answers before it is in the list."""
        until = time.monotonic() + timeout_s
        while not self.workers and time.monotonic() < until:
            time.sleep(0.01)
        return self.workers[0]

    def settle(self, timeout_s: float = 20) -> None:
        """All workers have gone; they do when their programs have."""
        until = time.monotonic() + timeout_s
        while self._begun and time.monotonic() < until:  # a program may end before it is listed
            time.sleep(0.01)
        while self.workers:
            self.workers.pop().wait(timeout_s)

    def close(self) -> None:
        """No more sessions."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for worker in self.workers:
            worker.kill()
            worker.wait()
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def serving(
    native: Path, folder: Path, env: Mapping[str, str], driver: Path | None = None
) -> Iterator[Serving]:
    """Sessions while the block runs."""
    served = Serving(native, folder, env, driver)
    try:
        yield served
    finally:
        served.close()
