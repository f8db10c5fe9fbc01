# SPDX-License-Identifier: Apache-2.0
"""Members of a struct or union, read from the C text of its row."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

__all__ = ["Member", "members"]

_TOKEN = re.compile(r"__attribute__\(\(.*?\)\)|\w+|[{}\[\];,*]")


@dataclass(frozen=True, slots=True)
class Member:
    """One member. What lies in a nested struct has a path (`a.b`); a union keeps its members."""

    name: str  # path from the outermost struct, as offsetof takes it; "" for an unnamed union
    type: str  # "const void *": pointers keep their star at the end; "" for a union
    count: int = 0  # elements of an array; 0: no array
    choices: tuple[Member, ...] = ()  # of a union: what shares the bytes


def members(text: str) -> tuple[Member, ...]:
    """Parse `type a, b[3]; struct { ... } c; union { ... };`."""
    tokens = [t for t in _TOKEN.findall(text) if not t.startswith("__attribute__")]
    found, rest = _block(tokens)
    if rest:
        raise ValueError(f"not a list of members: {text!r}")
    return found


def _block(tokens: list[str]) -> tuple[tuple[Member, ...], list[str]]:
    """Declarations up to the closing brace, or to the end."""
    out: list[Member] = []
    while tokens and tokens[0] != "}":
        if tokens[0] in ("struct", "union") and tokens[1] == "{":
            word = tokens[0]
            inner, tokens = _block(tokens[2:])
            name = "" if tokens[1] == ";" else tokens[1]
            tokens = tokens[tokens.index(";") + 1 :]
            if word == "union":
                out.append(Member(name, "", choices=_under(name, inner)))
            else:
                out.extend(_under(name, inner))
            continue
        end = tokens.index(";")
        out.extend(_declared(tokens[:end]))
        tokens = tokens[end + 1 :]
    return tuple(out), tokens


def _under(path: str, inner: tuple[Member, ...]) -> tuple[Member, ...]:
    """The members of a nested struct or union, by their paths."""
    if not path:
        return inner
    return tuple(
        replace(
            m,
            name=f"{path}.{m.name}" if m.name else path,
            choices=_under(path, m.choices),
        )
        for m in inner
    )


def _declared(tokens: list[str]) -> list[Member]:
    """`const T *a, b[3]`: one type, several names."""
    words = []
    while tokens and re.match(r"\w", tokens[0]):
        words.append(tokens.pop(0))
    rest = [words.pop()] if not tokens or tokens[0] in "[," else []
    base, rest = " ".join(words), rest + tokens
    out = []
    while rest:
        stars = ""
        while rest[0] == "*":
            stars += rest.pop(0)
        name, count = rest.pop(0), 0
        if rest and rest[0] == "[":
            count, rest = int(rest[1]), rest[3:]
        out.append(Member(name, f"{base} {stars}" if stars else base, count))
        if rest and rest.pop(0) != ",":
            raise ValueError(f"not a declaration: {tokens!r}")
    return out
