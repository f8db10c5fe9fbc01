# SPDX-License-Identifier: Apache-2.0
"""`harp doctor --probe`: every question has an answer or a reason, whatever becomes of a probe."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from harp.cli.doctor import doctor
from harp.cli.probed import shape, table, text, words
from harp.errors import ConfigError
from harp.probe import ask, child
from harp.probe.ask import Probed, finish, slices
from harp.probe.questions import PROBES, Answer, answers, ending, read_said

#: says one thing, then half a line, then does what it is told
SAYS = """
import json, os, sys, time
print(json.dumps({"key": "queue", "value": 1023}), flush=True)
print('{"key": "queue_fu', flush=True)
"""


def said(code: str, patience_s: float = 20) -> tuple[Answer, Answer]:
    lines, ended = finish([sys.executable, "-c", SAYS + code], os.environ, patience_s)
    queue, full = answers("queue", *read_said(lines), ended)
    return queue, full


def test_every_question_is_asked_by_one_probe_and_says_how() -> None:
    questions = [q for of in PROBES.values() for q in of]
    assert len({q.key for q in questions}) == len(questions)
    assert all(q.text and q.how for q in questions)
    # context and slices take more than one process: ask.py is their probe
    assert set(child._WHAT) == set(PROBES) - {"context", "slices"}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("os.kill(os.getpid(), 11)", "the probe was ended by SIGSEGV"),
        ("os.abort()", "the probe was ended by SIGABRT"),
        ("sys.exit('cuInit: no')", "the probe ended with status 1: cuInit: no"),
        ("", "the probe said nothing of it"),
    ],
)
def test_a_probe_that_dies_keeps_what_it_said_and_the_rest_has_its_reason(
    code: str, reason: str
) -> None:
    queue, full = said(code)
    assert (queue.value, queue.unknown) == (1023, "")
    assert (full.value, full.unknown) == (None, reason)


def test_a_probe_that_hangs_is_ended() -> None:
    queue, full = said("time.sleep(600)", patience_s=1)
    assert queue.value == 1023
    assert full.unknown == "the probe took more than 1 s"


#: starts a process that has its files open, and says its number
STARTS = """
import subprocess
held = subprocess.Popen(["sleep", "1000"])
print(json.dumps({"key": "queue", "value": held.pid}), flush=True)
"""


@pytest.mark.parametrize(
    ("code", "patience_s", "reason"),
    [
        ("os.kill(os.getpid(), 11)", 20, "the probe was ended by SIGSEGV"),
        ("", 20, "the probe said nothing of it"),
        ("time.sleep(600)", 2, "the probe took more than 2 s"),
    ],
    ids=["crash", "end", "hang"],
)
def test_what_a_probe_started_ends_with_it(code: str, patience_s: float, reason: str) -> None:
    began_s = time.monotonic()
    queue, full = said(STARTS + code, patience_s)
    assert full.unknown == reason
    assert time.monotonic() - began_s < 15  # it is not waited for
    assert isinstance(queue.value, int)
    with contextlib.suppress(FileNotFoundError):  # or whoever reaps orphans has not come yet
        while Path(f"/proc/{queue.value}/stat").read_text().split()[2] != "Z":
            assert time.monotonic() - began_s < 15
            time.sleep(0.01)


def test_a_reason_of_the_probe_is_better_than_its_end() -> None:
    lines = [json.dumps({"key": "queue", "unknown": "cuStreamCreate: no"}), "[1]", '{"value": 2}']
    queue, full = answers("queue", *read_said(lines), ending(-9, 60))
    assert queue.unknown == "cuStreamCreate: no"
    assert full.unknown == "the probe was ended by SIGKILL"


def test_no_is_an_answer_and_zero_is_one() -> None:
    lines = [
        json.dumps({"key": "queue", "value": 0}),
        json.dumps({"key": "queue_full", "value": ""}),
    ]
    assert [a.value for a in answers("queue", *read_said(lines), "")] == [0, ""]


def test_slices_come_from_what_both_had_and_had_not() -> None:
    had, away = [2090.0] * 9 + [2100.0], [2396.0] * 10
    values, reason = slices([(had, away), ([2091.0] * 9, away)])
    assert values == {"slice": 2091.0, "slice_most": 2100.0, "switch": 305.0}
    assert reason == ""


@pytest.mark.parametrize("gap", [1900.0, 2090.0])
def test_a_gap_that_is_no_longer_than_a_slice_holds_no_switch(gap: float) -> None:
    values, reason = slices([([2090.0] * 9, [gap] * 10), ([2090.0] * 9, [])])
    assert values == {"slice": 2090.0, "slice_most": 2090.0}
    assert reason == "gaps are no longer than the other's slices"


@pytest.mark.parametrize(("had", "away"), [([], []), ([2000.0] * 9, [])])
def test_two_that_did_not_take_turns_have_no_slices(had: list[float], away: list[float]) -> None:
    values, reason = slices([(had, away), (had, away)])
    assert values == {}
    assert "did not take turns" in reason


def test_without_cuda_python_the_remedy_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError) as error:
        ask.require()
    assert "cuda-python>=12.8" in error.value.hint


def probed(*, software: bool) -> Probed:
    queue, full = PROBES["queue"]
    said = (("queue", Answer(queue, 1023)), ("queue", Answer(full, unknown="\x1b[2J why")))
    return Probed("A GPU", "GPU-1", "580.1", software, 1, said)


def test_what_people_and_programs_read() -> None:
    found = probed(software=False)
    assert [text(a) for _, a in found.answers] == ["1 023 launches", "unknown: ?[2J why"]
    assert table(found).row_count == 2
    assert "1 unknown; 1 other processes" in words(found)
    told = shape(found)
    assert (told["software"], told["unknown"], told["note"]) == (False, 1, "")
    first, second = told["answers"]
    assert (first["answer"], first["unit"], "unknown" in first) == (1023, "launches", False)
    assert (second["answer"], second["unknown"]) == (None, "\x1b[2J why")
    json.dumps(told)


def test_the_software_gpu_is_said_to_be_one() -> None:
    found = probed(software=True)
    assert "the software GPU" in words(found)
    assert "the software GPU" in str(shape(found)["note"])


@pytest.mark.parametrize("words", [["--probe", "--pid", "1"], ["--gpu", "0"]])
def test_options_that_do_not_go_together(words: list[str]) -> None:
    assert CliRunner().invoke(doctor, words).exit_code == 2
