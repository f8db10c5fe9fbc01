# SPDX-License-Identifier: Apache-2.0
"""What a program sees does not change when its tenant oversubscribes: cases of memory again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import suite
from local_backend import Locals
from soft_mod_driver import CASES

from harp.lease_wire import GRANT_OVERSUBSCRIBE, Op

pytestmark = pytest.mark.skipif(
    "SNAP_RESIDENCY" not in Op.__members__, reason="this arbiter knows no oversubscription"
)

#: areas that allocate, or name what was allocated
AREAS = {
    *("address", "array", "capture", "capture2", "context", "graph", "graph2", "ipc", "launch"),
    *("limits", "managed", "management", "mpool", "peer", "pool", "poolpeer", "streamops", "vmm"),
}
NO_HANDLE = "refused, naming --no-oversubscribe: mapped memory has no legacy IPC handle"
#: cases that ought to pass and do not, and why
WAIVED = {
    "a_killed_recorder_holds_nobody": NO_HANDLE,
    "a_process_does_not_open_its_own": NO_HANDLE,
    "memory_is_shared_by_its_name": NO_HANDLE,
    "names_of_what_is_gone_open_nothing": NO_HANDLE,
    "streams_wait_for_the_other_program": NO_HANDLE,
    "pointers_know_their_range_and_mapping": NO_HANDLE,
    "memory_of_another_context_is_illegal": "what is mapped belongs to the device's contexts alike",
}


@pytest.fixture(scope="module")
def oversubscribed(native_dir: Path) -> Iterator[Locals]:
    with Locals(native_dir, GRANT_OVERSUBSCRIBE) as machines:
        yield machines


@pytest.mark.slow
@pytest.mark.parametrize(
    ("_backend", "area", "name"),
    [one for one in suite.params("local") if one.values[1] in AREAS],
)
def test_case(_backend: str, area: str, name: str, oversubscribed: Locals) -> None:
    with oversubscribed.on(CASES[area, name].devices).tenant() as env:
        if name in WAIVED:
            with pytest.raises(AssertionError):
                suite.run(area, name, env)
        else:
            suite.run(area, name, {**env, "HARP_SOFT_VERBOSE": "1"})


def test_it_was_memory_that_can_leave(oversubscribed: Locals) -> None:
    """Else the cases above would have said nothing."""
    local = oversubscribed.on("")
    with local.tenant() as env:
        suite.run("launch", "launches_compute_with_both_kinds_of_parameters", env)
        assert "swap_on" in local.world.log(f"case{local.count}")
