# SPDX-License-Identifier: Apache-2.0
"""Every text that the code may say, as a template: literal parts, and `…` where a value goes.

Python's strings come from its syntax tree (without docstrings), C's from its tokens (without
comments, adjacent literals joined, printf's conversions as values), the chart's from `fail` and
`printf`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOLE = "…"
CUT = "..."
#: of a text shorter than that, a find would say nothing
LEAST_LETTERS = 8

_CONVERSION = re.compile(r"%(?:%|[-+ #0]*(?:\d+|\*)?(?:\.(?:\d+|\*))?(?:hh|h|ll|l|z|j|t)?[a-zA-Z])")
_C_TOKEN = re.compile(
    r"""(?P<skip>/\*.*?\*/|//[^\n]*|\s+|\\\n)|"(?P<text>(?:[^"\\\n]|\\.)*)"|(?P<macro>\bPRI\w+)"""
    r"""|'(?:[^'\\\n]|\\.)*'|(?P<other>.)""",
    re.DOTALL,
)
_C_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\", "'": "'", "0": "\0"}
_CHART_TEXT = re.compile(r'(?:fail|printf) "((?:[^"\\]|\\.)*)"')


def of_python(source: str) -> Iterator[str]:
    """Strings and f-strings, but no docstrings."""
    tree = ast.parse(source)
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    forms = {
        id(node.format_spec) for node in ast.walk(tree) if isinstance(node, ast.FormattedValue)
    }
    inner = forms | {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
        if isinstance(part, ast.Constant)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in prose | inner:
                yield text
            case ast.JoinedStr(values=parts) if id(node) not in inner:
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else HOLE for part in parts
                )


def of_c(source: str) -> Iterator[str]:
    """String literals; those side by side are one, as to the compiler."""
    parts: list[str] = []
    for token in _C_TOKEN.finditer(source):
        if token["skip"] is not None:
            continue
        if token["text"] is not None:
            parts.append(_unescaped(token["text"]))
        elif token["macro"] is not None and parts:
            parts.append("d")  # what follows the % before it
        elif parts:
            yield _CONVERSION.sub(_hole, "".join(parts))
            parts = []


def of_chart(source: str) -> Iterator[str]:
    """What a template fails with."""
    for found in _CHART_TEXT.finditer(source):
        yield _CONVERSION.sub(_hole, found[1].replace('\\"', '"'))


def _hole(found: re.Match[str]) -> str:
    return "%" if found[0] == "%%" else HOLE


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda m: _C_ESCAPES.get(m[1], m[1]), text, flags=re.DOTALL)


@cache
def templates() -> frozenset[str]:
    """All of them, blanks made one."""
    found: set[str] = set()
    for folder in ("harp", "device_plugin"):
        for path in (ROOT / folder).rglob("*.py"):
            if "_pb2" not in path.name:
                found.update(of_python(path.read_text()))
    for folder in ("src", "soft"):
        for pattern in ("*.c", "*.h"):
            for path in (ROOT / "native" / folder).rglob(pattern):
                found.update(of_c(path.read_text()))
    for path in (ROOT / "deploy" / "helm" / "harp" / "templates").iterdir():
        found.update(of_chart(path.read_text()))
    return frozenset(" ".join(text.split()) for text in found)


def is_said(text: str, among: frozenset[str]) -> bool:
    """Whether one of them is `text`, its `…` being values; `...` at an end: it goes on there.

    Raises:
        ValueError: it has too few letters to be found by.
    """
    if sum(c.isalpha() for c in text) < LEAST_LETTERS:
        raise ValueError(f"{text!r} could be anything")
    middle = text.removeprefix(CUT).removesuffix(CUT).strip()
    if middle == text:
        return text in among
    pattern = re.compile(
        (".*" if text.startswith(CUT) else "")
        + re.escape(middle)
        + (".*" if text.endswith(CUT) else "")
    )
    return any(pattern.fullmatch(template) for template in among)
