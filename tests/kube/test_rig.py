# SPDX-License-Identifier: Apache-2.0
"""What the rig itself must hold; no cluster is needed."""

from __future__ import annotations

from rig.machine import Machine


def test_processes_may_be_started_while_it_looks_whether_all_live() -> None:
    """Nodes are started in threads of their own, and each looks."""
    machine = Machine.__new__(Machine)
    machine.processes = {}

    class Child:
        def poll(self) -> None:
            machine.processes["another"] = self  # type: ignore[assignment]

    machine.processes["one"] = Child()  # type: ignore[assignment]
    machine.alive()
    assert set(machine.processes) == {"one", "another"}
