# SPDX-License-Identifier: Apache-2.0
"""Programs that several of these tests run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from shim_world import compile_c

#: Files whose tests run alone under `pytest -n`: they measure shares of a device or of time, keep
#: both processors busy themselves, or look at what all programs of the machine leave behind.
ALONE = {
    "estimate_end",
    *("arbiter_memory", "arbiter_null", "bench", "context_cost", "harp_demo", "hazards"),
    *("link_resume_cable", "memory_kills", "memory_start", "memory_stress", "one_tenant"),
    *("oversubscribe", "plugin_bench", "remote_netem", "residency", "several_gpus", "share"),
    *("shim_fork", "shim_protocol", "shim_share", "shim_stress", "shim_swap", "soft_kill"),
    *("soft_share", "soft_start", "suspended", "truth_sample", "two_users", "upgrade"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks those of ALONE."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.stem[5:] in ALONE:
            item.add_marker("alone")


@pytest.fixture(scope="session")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """shim_busy.c, which keeps a device busy."""
    source = Path(__file__).with_name("shim_busy.c")
    return compile_c(source, tmp_path_factory.mktemp("busy") / "busy")


@pytest.fixture
def in_front() -> Iterator[None]:
    """All that is started here has the processors before the machine's other programs.

    For tests whose device must have work all the time: it is the host that hands it the work. As
    another user than root they are at the mercy of what else runs.
    """
    before, group = os.getpriority(os.PRIO_PROCESS, 0), Path("/proc/self/autogroup")
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    except PermissionError:
        yield
        return
    # Where sessions are groups, a program's own priority counts among its session's alone.
    words = group.read_text().split() if group.exists() else []
    if words:
        group.write_text("-10")
    yield
    os.setpriority(os.PRIO_PROCESS, 0, before)
    if words:
        group.write_text(words[-1])
