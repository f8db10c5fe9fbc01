# SPDX-License-Identifier: Apache-2.0
"""Programs whose own memory is in the way of a device's: ASan's shadow, a low heap, one full place.

Two devices, so that the second one's addresses are not the first one's either.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.remote_world import Serving, serving
from tests.integration.shim_world import compile_c

SOURCE = Path(__file__).with_name("remote_room.c")
#: no randomisation; with -L libraries lie at a third of the address space, and upwards from there
FIXED, LOW = ["setarch", "-R"], ["setarch", "-R", "-L"]
OUT_OF_MEMORY = "cuMemAlloc_v2: 2"
#: more than the program has, and less than the software GPU has addresses
TAKEN_MIB = 4096


class Room:
    """Runs the program, with its GPU elsewhere."""

    def __init__(self, served: Serving, folder: Path) -> None:
        self.served, self.folder = served, folder
        self.log = folder / "log"
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_", "CUDA_"))}
        self.env = served.client_env(plain) | {"HARP_LOG": str(self.log)}
        del self.env["LD_PRELOAD"]  # it opens libcuda.so.1 by itself: ASan wants to be the first

    def build(self, *options: str) -> Path:
        return compile_c(SOURCE, self.folder / "room", *options)

    def run(self, *command: str | Path) -> list[str]:
        """Its lines; it has to end well but for a call that failed, which is its last line."""
        done = subprocess.run(
            [str(word) for word in command],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        lines = done.stdout.splitlines()
        failed = bool(lines) and ":" in lines[-1]
        assert (done.returncode, done.stderr) == (int(failed), ""), (done.stdout, done.stderr)
        self.served.settle()
        return lines


@pytest.fixture
def fixed() -> list[str]:
    """Starts a program without randomisation, or skips the test: a container may not allow it."""
    if subprocess.run([*FIXED, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("setarch -R is not allowed here")
    return FIXED


@pytest.fixture
def room(
    native_dir: Path, soft_dir: Path, soft_env: dict[str, str], tmp_path: Path
) -> Iterator[Room]:
    env = {**soft_env, "HARP_SOFT_DEVICES": "h100-80g,h100-80g", "HARP_SOFT_TEARDOWN_MS": "0"}
    with serving(native_dir, soft_dir, env) as served:
        yield Room(served, tmp_path)


def places(lines: list[str]) -> list[int]:
    """Of each device's first allocation."""
    found = [int(line, 16) for line in lines]
    assert len(set(found)) == 2
    return found


def test_under_asan(room: Room) -> None:
    """A client with a shadow of 16 TiB, itself instrumented; libharp is not."""
    program = room.build("-fsanitize=address,undefined", "-fno-sanitize-recover")
    for _ in range(3):
        places(room.run(program))


@pytest.mark.usefixtures("fixed")
def test_a_low_heap(room: Room) -> None:
    """At 4 MiB, where nothing is randomised; libraries and stacks lie low as well."""
    program = room.build("-no-pie")
    places(room.run(*LOW, program))
    room.served.by = LOW
    places(room.run(*LOW, program))


@pytest.mark.usefixtures("fixed")
def test_both_ends_lie_alike(room: Room) -> None:
    """Nothing is randomised, so what the worker has free the program has, too, or has not."""
    room.served.by = FIXED
    places(room.run(*FIXED, room.build()))


@pytest.mark.usefixtures("fixed")
def test_a_place_that_is_taken(room: Room) -> None:
    program = room.build()
    room.served.by = FIXED
    first, _ = places(room.run(*FIXED, program))
    assert places(room.run(*FIXED, program))[0] == first  # else it says nothing about the place
    taken, _ = places(room.run(*FIXED, program, f"{first:x}", "16"))
    assert taken >= first + (16 << 20)
    assert not room.log.exists()


@pytest.mark.usefixtures("fixed")
def test_all_likely_places_are_taken(room: Room) -> None:
    """After eight tries both ends agree on an arena beyond what is taken."""
    program = room.build()
    room.served.by = FIXED
    first, _ = places(room.run(*FIXED, program))
    for place in places(room.run(*FIXED, program, f"{first:x}", str(TAKEN_MIB))):
        assert place >= first + (TAKEN_MIB << 20)
    assert "remote_arena" in room.log.read_text()


@pytest.mark.usefixtures("fixed")
def test_no_place_is_left(room: Room, native_dir: Path) -> None:
    """And the driver reserves none: there is no memory, which is said, and why."""
    program = room.build()
    room.served.by = FIXED
    first, _ = places(room.run(*FIXED, program))
    rule = [native_dir / "harp-soft-fault", "set", "fail cuMemAddressReserve 2"]
    subprocess.run(rule, env=room.served.env, check=True)
    assert room.run(*FIXED, program, f"{first:x}", str(TAKEN_MIB)) == [OUT_OF_MEMORY]
    said = room.log.read_text()
    assert "remote_address_taken" in said
    assert "remedy=" in said
    assert "remote_arena" not in said


@pytest.mark.usefixtures("fixed")
def test_little_room_and_all_likely_places_are_taken(room: Room) -> None:
    """The arena, too, does without being reserved here."""
    program = room.build()
    room.served.by = FIXED
    first, _ = places(room.run(*FIXED, program))
    limit = str(TAKEN_MIB + 64)
    for place in places(room.run(*FIXED, program, f"{first:x}", str(TAKEN_MIB), limit)):
        assert place >= first + (TAKEN_MIB << 20)


def test_an_address_space_with_little_room(room: Room) -> None:
    """`ulimit -v`: what cannot be reserved is used all the same."""
    places(room.run(room.build(), "0", "0", "64"))
