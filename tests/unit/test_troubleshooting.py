# SPDX-License-Identifier: Apache-2.0
"""deploy/TROUBLESHOOTING.md quotes what the code says, word for word."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.unit import code_texts
from tests.unit.code_texts import ROOT, is_said, of_c, of_chart, of_python

PAGE = ROOT / "deploy" / "TROUBLESHOOTING.md"
_TABLE = "| you see | text | why | what to do |"


@dataclass(frozen=True, slots=True)
class _Row:
    section: str
    seen: str
    text: str
    why: str
    remedy: str


def _rows() -> Iterator[_Row]:
    for part in PAGE.read_text().split("\n## ")[1:]:
        title, _, rest = part.partition("\n")
        assert rest.count(_TABLE) == 1, title
        for line in rest.partition(_TABLE)[2].strip().splitlines()[1:]:
            cells = [c.strip() for c in re.split(r"(?<!\\)\|", line.strip("|"))]
            assert len(cells) == 4, line
            yield _Row(title, cells[0], cells[1].strip("`").strip(), cells[2], cells[3])


ROWS = list(_rows())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.text[:60])
def test_the_text_is_said_by_the_code(row: _Row) -> None:
    assert is_said(row.text, code_texts.templates()), (
        f"nothing in the code says {row.text!r}; find what it says now, or take the row away"
    )


def test_each_part_has_its_errors() -> None:
    assert len(ROWS) >= 100
    assert len({row.text for row in ROWS}) == len(ROWS)
    found = {row.section: 0 for row in ROWS}
    for row in ROWS:
        found[row.section] += 1
        assert row.seen
        assert row.why
        assert row.remedy
    assert min(found.values()) >= 5, found
    assert len(found) == 9


def test_texts_are_taken_from_python() -> None:
    code = '''
def f(a):
    """No GPU is left: docstrings are not said."""
    raise Wrong(f"no {a!r} of {a:.2f}" " is left", "ask" f" {a}")
'''
    assert set(of_python(code)) == {"no … of … is left", "ask …"}


def test_texts_are_taken_from_c() -> None:
    code = r"""
#include "not/a/text.h"
/* "not said" */ // "nor this"
say("kernel %.100s: %zu bytes, %" PRIu64 " of \"them\", 100 %%",
    /* why */ "apart");
char c = '"'; say("a" "b\n");
"""
    assert list(of_c(code)) == [
        "not/a/text.h",
        'kernel …: … bytes, … of "them", 100 %',
        "apart",
        "ab\n",
    ]


def test_texts_are_taken_from_the_chart() -> None:
    code = (
        '{{- fail (printf "x.%s is %q; remedy: \\"y\\"" $a $b) }}{{ fail "no" }}{{ include "z" . }}'
    )
    assert list(of_chart(code)) == ['x.… is …; remedy: "y"', "no"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no room for … of … is left", True),
        ("no room for … is left", False),
        ("no room for … of … is gone", False),
        ("no room for … of … is ...", True),
        ("no room for … of … was ...", False),
        ("for … of … is left", False),
        ("...for … of … is left", True),
        ("no room for … of … is left, or so", False),
    ],
)
def test_a_changed_text_is_no_longer_said(text: str, *, said: bool) -> None:
    assert is_said(text, frozenset({"no room for … of … is left", "another text"})) == said


def test_a_text_of_values_alone_proves_nothing() -> None:
    with pytest.raises(ValueError, match="could be anything"):
        is_said("… of …: ...", frozenset({"… of …: …"}))
