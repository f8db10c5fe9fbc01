# SPDX-License-Identifier: Apache-2.0
"""What tests/gpu makes of a driver's names that no row knows."""

from __future__ import annotations

from tests.gpu.driver_names import judge


def test_names_that_may_allocate_or_launch_are_suspect() -> None:
    found = judge(["cuMemAllocNew", "cuLaunchSomehow", "cuNewQuery", "cuMemImportThing"])
    assert found.suspect == ["cuLaunchSomehow", "cuMemAllocNew", "cuMemImportThing"]
    assert found.unknown == sorted([*found.suspect, "cuNewQuery"])
    assert found.debugger == []


def test_the_debuggers_names_are_judged_apart() -> None:
    """As driver 580.159.04 exports them: one is called EnableLaunchBlocking, and is a variable."""
    found = judge(["cudbgEnableLaunchBlocking", "cudbgDebuggerInitialized", "cuCreateNew"])
    assert found.debugger == ["cudbgDebuggerInitialized", "cudbgEnableLaunchBlocking"]
    assert found.suspect == ["cuCreateNew"]
    assert found.unknown == ["cuCreateNew", *found.debugger]


def test_only_names_of_the_debugger_as_such_are_excused() -> None:
    assert judge(["cuLaunchcudbg", "cudLaunch"]).suspect == ["cuLaunchcudbg", "cudLaunch"]


def test_what_is_not_the_driver_apis_is_left_out() -> None:
    assert judge(["nvidiaLaunch", "_init", "__cuLaunch"]).unknown == []
