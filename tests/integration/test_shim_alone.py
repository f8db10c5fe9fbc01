# SPDX-License-Identifier: Apache-2.0
"""A tenant whose company goes in the middle of its turn: a scripted arbiter, the fake driver."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from shim_script import client, program

from harp.lease_wire import Op

EPOCH = 7


@pytest.mark.parametrize("stream", ["stream", "None"], ids=["own", "default"])
def test_who_becomes_alone_in_mid_turn_is_measured_on(
    native_dir: Path, tmp_path: Path, stream: str
) -> None:
    """Launches that a turn had between two events were waited for, and no sample taken any more."""
    slow = {"FAKE_LAUNCH_US": "100"}  # some launch is always under way
    endless = f"while True:\n    launch(40, {stream})\n"
    with client(native_dir, tmp_path, *program(endless), **slow) as made:
        script = made.arbiter(lanes=2)
        script.until(Op.WANT_TIME)
        for _ in range(10):
            script.say(op=Op.OPEN_GATE, epoch=EPOCH, quantum_ns=5_000_000_000)
            time.sleep(0.03)  # it knows its kernels, and has left what was before
            script.say(op=Op.OPEN_GATE, epoch=EPOCH)
            for _ in range(3):
                assert script.until(Op.USED_TIME, b=1).used_ns > 0


def test_what_was_queued_when_it_became_alone_is_charged_once(
    native_dir: Path, tmp_path: Path
) -> None:
    """What had not ended then was in no report: too late for the turn's, too early for samples."""
    code = """
for _ in range(7):  # no sooner than the first one's end the others
    launch(30_000)
print("queued", flush=True)
input()
launch(30_000)
input()
"""
    with client(native_dir, tmp_path, *program(code)) as made:
        assert made.process.stdout
        script = made.arbiter(lanes=2)
        script.until(Op.WANT_TIME)
        script.say(op=Op.OPEN_GATE, epoch=EPOCH, quantum_ns=5_000_000_000)
        assert made.process.stdout.readline() == "queued\n"
        script.say(op=Op.OPEN_GATE, epoch=EPOCH)
        told = [script.until(Op.USED_TIME)]
        time.sleep(0.3)
        made.go()
        while not told[-1].b:
            told.append(script.until(Op.USED_TIME))
        assert sum(said.launches for said in told) == 8
        assert sum(said.used_ns for said in told) == pytest.approx(8 * 30_000_000, rel=0.1)
