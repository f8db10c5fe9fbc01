# SPDX-License-Identifier: Apache-2.0
"""Sizes, percentages and durations, as people write them and as the code holds them.

Inside, a size is int bytes, a share is int parts per million (ppm) and a duration is float seconds.
`parse_x(format_x(v)) == v` holds for every value, so what is shown can be typed back.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from harp.errors import UnitError

__all__ = [
    "PPM",
    "SIZE_MAX_BYTES",
    "format_duration",
    "format_percent",
    "format_size",
    "parse_duration",
    "parse_percent",
    "parse_size",
]

#: 100 % in parts per million.
PPM = 1_000_000
#: Largest size that fits the lease protocol's unsigned 64 bits with room to add.
SIZE_MAX_BYTES = 1 << 62

_SIZE_UNITS = {
    "": 1,
    "b": 1,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
    # One letter means the binary unit, as in dd, docker and Kubernetes' Mi without the i.
    "k": 1 << 10,
    "m": 1 << 20,
    "g": 1 << 30,
    "t": 1 << 40,
}
_DECIMAL_UNITS = {"kb", "mb", "gb", "tb"}
_DURATION_UNITS = {
    "us": Decimal("1e-6"),
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "": Decimal(1),
    "min": Decimal(60),
    "h": Decimal(3600),
}
_DURATION_MAX_S = Decimal(365 * 24 * 3600)
_NUMBER = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z%]*)\s*$")


def parse_size(text: str) -> int:
    """Read a size such as "8GiB", "256MiB", "1.5g" or "4096" (bytes).

    Returns:
        Whole bytes, 0 to 2**62.

    Raises:
        UnitError: not a number with a binary unit, not whole bytes, or out of range.
    """
    number, unit = _split(text, "size", "write 8GiB, 256MiB or a number of bytes")
    key = unit.lower()
    if key in _DECIMAL_UNITS:
        binary = unit[0].upper() + "iB"
        raise UnitError(
            f"size {text!r} has the decimal unit {unit}; HARP counts memory in MiB and GiB",
            f"write {number}{binary}",
        )
    factor = _SIZE_UNITS.get(key)
    if factor is None:
        raise UnitError(
            f"size {text!r} has the unknown unit {unit!r}", "use B, KiB, MiB, GiB or TiB"
        )
    value = number * factor
    if value != value.to_integral_value():
        raise UnitError(f"size {text!r} is not a whole number of bytes", "write a smaller unit")
    if value > SIZE_MAX_BYTES:
        raise UnitError(f"size {text!r} is more than {format_size(SIZE_MAX_BYTES)}", "write less")
    return int(value)


def format_size(size_bytes: int) -> str:
    """Write bytes exactly, in the largest unit that divides them."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= factor and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return f"{size_bytes}B"


def parse_percent(text: str, *, minimum_ppm: int = 1, maximum_ppm: int = PPM) -> int:
    """Read a share such as "30%", "30" or "12.5%".

    Returns:
        Parts per million.

    Raises:
        UnitError: not a percentage, finer than 0.0001 %, or outside the range.
    """
    number, unit = _split(text, "percentage", "write 30% or 12.5%")
    if unit not in ("", "%"):
        raise UnitError(f"percentage {text!r} has the unit {unit!r}", "write 30% or 12.5%")
    ppm = number * 10_000
    if ppm != ppm.to_integral_value():
        raise UnitError(f"percentage {text!r} is finer than 0.0001%", "write fewer digits")
    if not minimum_ppm <= ppm <= maximum_ppm:
        raise UnitError(
            f"percentage {text!r} is outside {format_percent(minimum_ppm)}"
            f" to {format_percent(maximum_ppm)}",
            "a share is a part of one device's time",
        )
    return int(ppm)


def format_percent(ppm: int) -> str:
    """Write parts per million as a percentage, exactly."""
    whole, rest = divmod(ppm, 10_000)
    if not rest:
        return f"{whole}%"
    return f"{whole}.{rest:04d}".rstrip("0") + "%"


def parse_duration(text: str) -> float:
    """Read a duration such as "250ms", "1.5s", "2min" or "10" (seconds).

    Returns:
        Seconds, 0 to one year.

    Raises:
        UnitError: not a duration, or out of range.
    """
    number, unit = _split(text, "duration", "write 250ms, 1.5s, 2min or 1h")
    factor = _DURATION_UNITS.get(unit)
    if factor is None:
        raise UnitError(f"duration {text!r} has the unknown unit {unit!r}", "use us, ms, s, min, h")
    value = number * factor
    if value > _DURATION_MAX_S:
        raise UnitError(f"duration {text!r} is more than a year", "write less")
    return float(value)


def format_duration(seconds: float) -> str:
    """Write seconds in the unit that reads best; no digit is lost."""
    value = Decimal(repr(seconds))
    for unit, factor in (("h", Decimal(3600)), ("min", Decimal(60)), ("s", Decimal(1))):
        if value >= factor and value % factor == 0:
            return f"{int(value / factor)}{unit}"
    if Decimal("1e-3") <= value < 1:
        return f"{_plain(value * 1000)}ms"
    if 0 < value < Decimal("1e-3"):
        return f"{_plain(value * 1_000_000)}us"
    return f"{_plain(value)}s"


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _split(text: str, what: str, hint: str) -> tuple[Decimal, str]:
    match = _NUMBER.match(text)
    if match is None:
        raise UnitError(f"{text!r} is not a {what}", hint)
    try:
        return Decimal(match[1]), match[2]
    except InvalidOperation as error:  # more digits than Decimal takes
        raise UnitError(f"{text!r} is not a {what}", hint) from error
