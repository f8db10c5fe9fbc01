# SPDX-License-Identifier: Apache-2.0
"""Where HARP's processes meet: the daemon's run folder, and each user's own.

The daemon's folder is $HARP_RUN if set; else /run/harp for root, and for others if a daemon is
there; else /tmp/harp-run, made by whoever starts a daemon first. All users of a machine look in the
same places in the same order, so the second one finds the first one's daemon. A folder that is a
link, or that everybody may write to, is refused: another user could replace what is in it.

A user's own folder ($XDG_RUNTIME_DIR/harp, else /tmp/harp-<uid>; mode 0700) holds the grant
folders and the injected libraries: a tenant's process loads no file that another user may write.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harp.errors import ConfigError, RunDirUnsafe

__all__ = ["RunDir", "check_socket", "find", "make_user_dir", "state_dir", "sweep", "user_dir"]

SYSTEM = Path("/run/harp")
RENDEZVOUS = Path("/tmp/harp-run")  # noqa: S108 - its owner and mode are checked before use

#: a folder that is younger may be in the making
_STALE_S = 60.0
#: struct sockaddr_un holds so many bytes of path
_SOCKET_PATH_MAX = 107


@dataclass(frozen=True, slots=True)
class RunDir:
    """A daemon's run folder."""

    path: Path

    @property
    def control(self) -> Path:
        """Socket of the gRPC control API."""
        return self.path / "control.sock"

    @property
    def auth(self) -> Path:
        """Socket that hands out tokens and takes listening sockets."""
        return self.path / "auth.sock"

    @property
    def admin(self) -> Path:
        """The arbiter's socket for harpd."""
        return self.path / "admin.sock"

    @property
    def lock(self) -> Path:
        """Held by the one harpd of this folder; contains its pid."""
        return self.path / "harpd.lock"

    @property
    def flags(self) -> Path:
        """Settings that the last harpd here was given on its command line (keep_flags)."""
        return self.path / "flags.json"

    @property
    def store(self) -> Path:
        """Grants, and measured overheads."""
        return self.path / "harpd.db"

    @property
    def log(self) -> Path:
        """Log of harpd."""
        return self.path / "harpd.log"

    @property
    def arbiter_log(self) -> Path:
        """What the arbiter and its predecessors said."""
        return self.path / "arbiter.log"

    def alive(self) -> bool:
        """Whether a harpd answers here."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(self.auth))
            except OSError:
                return False
            return True

    def held(self) -> bool:
        """Whether a harpd holds the folder's lock: one that ends does so a little longer."""
        try:
            fd = os.open(self.lock, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def keep_flags(self, flags: Sequence[str]) -> None:
        """Note "KEY=VALUE" of the command line, for who replaces this harpd by a newer one."""
        new = self.flags.with_suffix(".new")
        new.write_text(json.dumps(list(flags)))
        new.replace(self.flags)

    def kept_flags(self) -> tuple[str, ...]:
        """What the last harpd here was given; nothing where none was, or it was told to stop.

        Raises:
            ConfigError: that cannot be read.
        """
        try:
            return tuple(str(flag) for flag in json.loads(self.flags.read_text()))
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(
                f"cannot read {self.flags}: {error}",
                "harp daemon --stop, then start harpd with its flags",
            ) from error

    def check(self) -> None:
        """Refuse a folder that another user could tamper with.

        Raises:
            RunDirUnsafe: a link, no folder, writable by others, or a path too long for sockets.
        """
        check_socket(self.control, "set HARP_RUN to a shorter path")
        _check_folder(self.path, "set HARP_RUN to a folder of your own")

    def make(self) -> None:
        """Make the folder, if need be, for this process's user.

        Raises:
            RunDirUnsafe: as check(), or it belongs to another user.
        """
        try:
            self.path.mkdir(parents=True)
            self.path.chmod(0o755)  # whatever the umask: other users come here too
        except FileExistsError:
            pass
        except OSError as error:
            raise RunDirUnsafe(
                f"cannot make {self.path}: {error}", "set HARP_RUN to a folder you may write to"
            ) from error
        self.check()
        owner = self.path.stat().st_uid
        if owner != os.geteuid():
            raise RunDirUnsafe(
                f"{self.path} belongs to uid {owner}, and no daemon answers there",
                "ask that user to start `harp daemon`, or set HARP_RUN to a folder of your own",
            )


def check_socket(path: Path, remedy: str = "set XDG_RUNTIME_DIR to a shorter path") -> None:
    """Refuse a path that no socket can have.

    Raises:
        RunDirUnsafe: it is too long.
    """
    if len(os.fsencode(path)) > _SOCKET_PATH_MAX:
        raise RunDirUnsafe(
            f"{path} is too long for a socket ({_SOCKET_PATH_MAX} bytes at most)", remedy
        )


def find(env: Mapping[str, str]) -> RunDir:
    """The run folder that holds for this process; it need not exist yet."""
    if env.get("HARP_RUN"):
        return RunDir(Path(env["HARP_RUN"]).absolute())
    if os.geteuid() == 0:
        return RunDir(SYSTEM)
    system = RunDir(SYSTEM)
    if system.alive():
        return system
    return RunDir(RENDEZVOUS)


def state_dir(env: Mapping[str, str]) -> Path:
    """Where harpd keeps what outlasts the machine's next start; it need not exist yet.

    $HARP_STATE if set; else with a $HARP_RUN of one's own `state` in it; else /var/lib/harp for
    root, and $XDG_STATE_HOME/harp or ~/.local/state/harp for others.
    """
    if env.get("HARP_STATE"):
        return Path(env["HARP_STATE"]).absolute()
    if env.get("HARP_RUN"):
        return Path(env["HARP_RUN"]).absolute() / "state"
    if os.geteuid() == 0:
        return Path("/var/lib/harp")
    base = env.get("XDG_STATE_HOME") or str(Path(env.get("HOME", "/")) / ".local" / "state")
    return Path(base) / "harp"


def user_dir(env: Mapping[str, str]) -> Path:
    """This user's own folder; it need not exist yet."""
    base = env.get("XDG_RUNTIME_DIR")
    if base:
        try:
            if Path(base).stat().st_uid == os.geteuid() and os.access(base, os.W_OK | os.X_OK):
                return Path(base) / "harp"
        except OSError:
            pass  # `su` leaves the other user's value behind
    return Path(f"/tmp/harp-{os.geteuid()}")  # noqa: S108 - checked by make_user_dir


def make_user_dir(env: Mapping[str, str]) -> Path:
    """Make this user's own folder, mode 0700.

    Raises:
        RunDirUnsafe: it is a link, or another user's, or open to others.
    """
    path = user_dir(env)
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise RunDirUnsafe(f"cannot make {path}: {error}", "set XDG_RUNTIME_DIR") from error
    found = _check_folder(path, "remove it, or set XDG_RUNTIME_DIR")
    if found.st_uid != os.geteuid():
        raise RunDirUnsafe(
            f"{path} belongs to uid {found.st_uid}, not {os.geteuid()}", "set XDG_RUNTIME_DIR"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise RunDirUnsafe(f"{path} is open to others", f"chmod 700 {path}")
    return path


def _check_folder(path: Path, hint: str) -> os.stat_result:
    try:
        found = path.lstat()
    except OSError as error:
        raise RunDirUnsafe(f"cannot see {path}: {error}", hint) from error
    if not stat.S_ISDIR(found.st_mode):
        raise RunDirUnsafe(f"{path} is no folder (links are refused)", hint)
    if found.st_mode & stat.S_IWOTH:
        raise RunDirUnsafe(f"{path} is writable by everybody", hint)
    return found


def sweep(folders: Path, name: str, kind: socket.SocketKind) -> None:
    """Remove what runs that ended, or were killed, have left: at their sockets nobody listens.

    Args:
        folders: one a run.
        name: of the socket in each.
        kind: of socket.
    """
    now = time.time()
    for folder in folders.iterdir():
        with contextlib.suppress(OSError):
            if now - folder.stat().st_mtime < _STALE_S:
                continue  # another `harp run` may be at work in it
            with socket.socket(socket.AF_UNIX, kind) as probe:
                probe.settimeout(0.2)
                try:
                    probe.connect(str(folder / name))
                except (ConnectionRefusedError, FileNotFoundError):
                    shutil.rmtree(folder, ignore_errors=True)
