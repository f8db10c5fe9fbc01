# SPDX-License-Identifier: Apache-2.0
"""Settings: one tree, in which each key has its unit, range, default and a sentence.

Where a value comes from, the later winning: the default, the file (TOML: $HARP_CONFIG, else
/etc/harp/harp.toml for root and ~/.config/harp/harp.toml for others, if it is there), the
environment (HARP_CONFIG_WATCHDOG_PERIOD_S for `watchdog.period_s`), the flag
(`harp daemon --set watchdog.period_s=0.5`). An unknown key is an error that names the nearest one.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from harp.errors import ConfigError
from harp.estimator.modes import Mode, read_modes

__all__ = [
    "AdmissionConfig",
    "Config",
    "DaemonConfig",
    "DeviceConfig",
    "EstimateConfig",
    "HistoryConfig",
    "Key",
    "LogConfig",
    "TimeConfig",
    "Value",
    "WatchdogConfig",
    "all_keys",
    "config_path",
    "key",
    "listen_address",
    "load",
]

Value = str | int | float
_T = TypeVar("_T", str, int, float)


@dataclass(frozen=True, slots=True)
class Key:
    """What may be said of one setting."""

    name: str  #: "watchdog.period_s"
    default: Value
    text: str  #: one sentence
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    form: str = ""  #: of a text, in words
    read: Callable[[str], object] | None = None  #: raises ConfigError if a text is not of that form

    @property
    def env(self) -> str:
        """Its name in the environment."""
        return "HARP_CONFIG_" + self.name.upper().replace(".", "_")

    @property
    def range(self) -> str:
        """Its legal values, in words."""
        if self.choices:
            return "|".join(filter(None, self.choices))
        if self.form:
            return self.form
        if self.low is None or self.high is None:
            return ""
        return f"{_plain(self.low)} to {_plain(self.high)}"

    def check(self, value: object, source: str) -> Value:
        """Convert `value`, given by `source`, to the key's type.

        Raises:
            ConfigError: another type, or outside the range.
        """
        kind = type(self.default)
        try:
            converted = kind(value) if isinstance(value, str | int | float) else None
        except ValueError:
            converted = None
        legal = f"{self.name} takes {self.range}{' ' + self.unit if self.unit else ''}"
        if converted is None or isinstance(value, bool):
            raise ConfigError(f"{self.name} = {value!r} ({source}) is no {kind.__name__}", legal)
        if kind is int and isinstance(value, float) and value != converted:
            raise ConfigError(f"{self.name} = {value!r} ({source}) is not whole", legal)
        if self.choices and converted not in self.choices:
            raise ConfigError(f"{self.name} = {value!r} ({source}) is unknown", legal)
        if self.read is not None:
            try:
                self.read(str(converted))
            except ConfigError as error:
                raise ConfigError(f"{self.name} ({source}): {error.message}", legal) from error
        if self.low is not None and self.high is not None:
            number = float(converted)
            if not self.low <= number <= self.high:
                raise ConfigError(f"{self.name} = {value!r} ({source}) is out of range", legal)
        return converted


def _plain(value: float) -> str:
    """A bound as it is typed: 1000000, not 1e+06."""
    return str(int(value)) if value == int(value) else f"{value:g}"


def key(
    default: _T,
    text: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    form: str = "",
    read: Callable[[str], object] | None = None,
) -> _T:
    """A dataclass field that is a setting; its own name is put in by who lists them."""
    info = Key("", default, text, unit, low, high, choices, form, read)
    field: _T = dataclasses.field(default=default, metadata={"key": info})
    return field


_LISTEN = re.compile(r"(?:(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):)?([0-9]{1,5})")


def listen_address(text: str) -> tuple[str, int] | None:
    """Host and port of "9409", "0.0.0.0:9409" or "[::]:9409"; None of "".

    A port alone is one of this machine's loopback. ":9409" is none: elsewhere it means everybody.

    Raises:
        ConfigError: something else.
    """
    if not text:
        return None
    found = _LISTEN.fullmatch(text)
    if found is None or int(found[2]) > 65535:
        raise ConfigError(
            f"{text!r} is no address to listen on",
            "a PORT (loopback alone), or HOST:PORT; 0.0.0.0:PORT is every IPv4 address",
        )
    return (found[1] or "127.0.0.1").strip("[]"), int(found[2])


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """Which devices, and what is assumed of them."""

    kind: str = key(
        "auto",
        "Devices to serve; auto takes NVIDIA ones where there are any, else the software GPU.",
        choices=("auto", "nvidia", "software"),
    )
    overhead_bytes: int = key(
        512 << 20,
        "Memory one context is taken to cost where it cannot be measured.",
        unit="bytes",
        low=0,
        high=1 << 36,
    )


@dataclass(frozen=True, slots=True)
class AdmissionConfig:
    """How much may be promised."""

    overcommit_ratio: float = key(
        1.0,
        "Promised memory and promised shares may reach so many times what a device has.",
        low=1.0,
        high=100.0,
    )
    tenants_per_user: int = key(
        256,
        "So many tenants may one user have at once; the arbiter takes 1024 in all.",
        low=1,
        high=1024,
    )


@dataclass(frozen=True, slots=True)
class EstimateConfig:
    """What comes of what is learned of jobs."""

    mode: str = key(
        Mode.OBSERVE.value,
        "What comes of estimates: observe nothing, recommend a word to who asked for more, enforce"
        " GPUs filled by what their jobs need.",
        choices=tuple(mode.value for mode in Mode),
    )
    modes: str = key(
        "",
        "Other modes for some.",
        form='NAMESPACE=MODE or uid:NUMBER=MODE, comma separated, as "training=enforce"',
        read=read_modes,
    )


@dataclass(frozen=True, slots=True)
class TimeConfig:
    """How the arbiter divides GPU time; read when an arbiter is started."""

    policy: str = key(
        "drr",
        "Who runs next: drr by measured use over share, priority by class alone, fifo in turn.",
        choices=("drr", "priority", "fifo"),
    )
    quantum_us: int = key(
        5000,
        "Longest turn of a tenant while another one waits.",
        unit="us",
        low=1000,
        high=50_000,
    )
    burst_us: int = key(
        50_000,
        "GPU time that a tenant is owed at most when it comes back from being idle.",
        unit="us",
        low=0,
        high=1_000_000,
    )


@dataclass(frozen=True, slots=True)
class WatchdogConfig:
    """How uncovered processes are found, and what is done with them."""

    period_s: float = key(
        1.0,
        "Time between two comparisons of the device's processes with the sessions.",
        unit="s",
        low=0.1,
        high=60,
    )
    drain_period_s: float = key(
        0.03,
        "The same while memory of a dead process is awaited.",
        unit="s",
        low=0.01,
        high=1,
    )
    confirm_count: int = key(
        2,
        "A process is uncovered when seen without a session so many times in a row.",
        low=1,
        high=100,
    )
    policy: str = key(
        "warn",
        "What is done with a tenant's uncovered process if `harp run --policy` did not say.",
        choices=("warn", "stop", "kill"),
    )
    overdraft: str = key(
        "refuse",
        "What is done when code, heaps and local memory carry a tenant above its memory limit:"
        " refuse gives no new memory, kill also ends the process that holds most of them.",
        choices=("refuse", "kill"),
    )
    overdraft_grace_s: float = key(
        30.0,
        "So long must that last before overdraft=kill ends a process.",
        unit="s",
        low=1,
        high=3600,
    )


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """harpd itself."""

    history_s: float = key(
        10.0,
        "Window over which achieved shares are shown.",
        unit="s",
        low=1,
        high=600,
    )
    arbiter_timeout_s: float = key(
        5.0,
        "harp-arbiter must be ready, and answer, within this time.",
        unit="s",
        low=0.5,
        high=60,
    )
    reply_timeout_s: float = key(
        10.0,
        "A client's listening socket is kept so long for the grant it is meant for.",
        unit="s",
        low=1,
        high=60,
    )
    metrics_listen: str = key(
        "",
        "Where Prometheus finds /metrics and /healthz over HTTP, for whoever reaches it.",
        form="PORT (loopback alone) or HOST:PORT; empty: nowhere",
        read=listen_address,
    )
    metrics_grants: int = key(
        2048,
        "Tenants' GPUs that have series of their own there, who came first; the devices' totals"
        " have all.",
        low=1,
        high=8192,
    )
    metrics_kernels: int = key(
        5,
        "Kernels of each tenant that have series of their own there, by name; the others are one."
        " 0: no series of kernels and copied bytes.",
        low=0,
        high=50,
    )
    web: str = key(
        "",
        "Where the web page is, read-only; elsewhere than on loopback with TLS and a token alone.",
        form="PORT (loopback alone) or HOST:PORT; empty: nowhere",
        read=listen_address,
    )
    web_cert: str = key(
        "",
        "PEM file of the page's certificate, and of those above it.",
        form="a whole path; empty: plain HTTP, on loopback alone",
    )
    web_key: str = key(
        "",
        "PEM file of the key of that certificate.",
        form="a whole path",
    )
    web_token: str = key(
        "",
        "File, 0600, of the token that readers of the page's API must have.",
        form="a whole path; empty: on loopback nobody is asked",
    )
    metrics_dcgm: str = key(
        "no",
        "Whether GPUs' figures are there under dcgm-exporter's names, too. Not where it runs as"
        " well: each would come twice.",
        choices=("yes", "no"),
    )


@dataclass(frozen=True, slots=True)
class HistoryConfig:
    """What is kept of jobs that have ended: estimates are made from it."""

    enabled: str = key(
        "yes",
        "Whether runs are written down: digests of their commands and users, what they used, and"
        " their largest kernels by name.",
        choices=("yes", "no"),
    )
    days: float = key(
        90.0,
        "Runs that ended longer ago are forgotten.",
        unit="days",
        low=1,
        high=3650,
    )
    runs_max: int = key(
        200_000,
        "Of more runs than that the oldest are forgotten.",
        low=100,
        high=10_000_000,
    )
    period_s: float = key(
        5.0,
        "Time between two looks at what tenants use.",
        unit="s",
        low=0.5,
        high=60,
    )


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Logging of harpd."""

    level: str = key(
        "info",
        "debug: every decision; info: state changes; warning: degraded; error: act.",
        choices=("debug", "info", "warning", "error"),
    )


@dataclass(frozen=True, slots=True)
class Config:
    """The whole tree."""

    device: DeviceConfig = DeviceConfig()
    admission: AdmissionConfig = AdmissionConfig()
    estimate: EstimateConfig = EstimateConfig()
    time: TimeConfig = TimeConfig()
    watchdog: WatchdogConfig = WatchdogConfig()
    daemon: DaemonConfig = DaemonConfig()
    history: HistoryConfig = HistoryConfig()
    log: LogConfig = LogConfig()


def all_keys() -> Iterator[Key]:
    """Every key of the tree, in its order."""
    tree = Config()
    for group in dataclasses.fields(Config):
        for field in dataclasses.fields(getattr(tree, group.name)):
            info = cast("Key", field.metadata["key"])
            yield dataclasses.replace(info, name=f"{group.name}.{field.name}")


def config_path(env: Mapping[str, str]) -> Path:
    """Where the file is looked for."""
    if "HARP_CONFIG" in env:
        return Path(env["HARP_CONFIG"])
    if os.geteuid() == 0:
        return Path("/etc/harp/harp.toml")
    base = env.get("XDG_CONFIG_HOME") or str(Path(env.get("HOME", "/")) / ".config")
    return Path(base) / "harp" / "harp.toml"


def load(env: Mapping[str, str], flags: tuple[str, ...] = ()) -> Config:
    """Read the settings from the file, the environment and `flags` ("key=value").

    Raises:
        ConfigError: unreadable file, unknown key, or a value out of range.
    """
    known = {key.name: key for key in all_keys()}
    values: dict[str, Value] = {}
    for name, value, source in (
        *_from_file(config_path(env), required="HARP_CONFIG" in env),
        *_from_env(env, known),
        *_from_flags(flags),
    ):
        key = known.get(name)
        if key is None:
            raise ConfigError(f"unknown key {name} ({source})", _nearest(name, known))
        values[name] = key.check(value, source)
    tree = Config()
    for group in dataclasses.fields(Config):
        prefix = group.name + "."
        chosen = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
        branch = dataclasses.replace(getattr(tree, group.name), **chosen)
        tree = dataclasses.replace(tree, **{group.name: branch})
    return tree


def _from_file(path: Path, *, required: bool) -> Iterator[tuple[str, object, str]]:
    try:
        with path.open("rb") as file:
            tree = tomllib.load(file)
    except FileNotFoundError as error:
        if required:
            raise ConfigError(f"$HARP_CONFIG names {path}, which is not there") from error
        return
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    for group, content in tree.items():
        if not isinstance(content, dict):
            yield group, content, str(path)
            continue
        for name, value in content.items():
            yield f"{group}.{name}", value, str(path)


def _from_env(
    env: Mapping[str, str], known: Mapping[str, Key]
) -> Iterator[tuple[str, object, str]]:
    by_env = {key.env: key.name for key in known.values()}
    for name, value in sorted(env.items()):
        if not name.startswith("HARP_CONFIG_"):
            continue
        if name not in by_env:
            raise ConfigError(f"unknown key ${name}", _nearest(name, by_env))
        yield by_env[name], value, f"${name}"


def _from_flags(flags: tuple[str, ...]) -> Iterator[tuple[str, object, str]]:
    for flag in flags:
        name, equals, value = flag.partition("=")
        if not equals:
            raise ConfigError(f"--set {flag}: no value", "write --set key=value")
        yield name.strip(), value.strip(), "--set"


def _nearest(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"did you mean {near[0]}?" if near else ""
