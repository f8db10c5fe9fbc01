# SPDX-License-Identifier: Apache-2.0
"""Two users share one box and one daemon: neither can join, drain, set or starve the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.machine import ROOT, machine

NOBODY = 65534


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become two users")
def test_another_user_can_only_look(native_dir: Path) -> None:
    with machine(native_dir) as box:
        box.start_harpd()
        victim = box.gpu_tenant("--name", "victim", "--mem", "128MiB", "--share", "60%", mib=100)
        before = box.ps("victim")
        assert before
        grants = list((box.base / "user/harp/grants").iterdir())
        assert len(grants) == 1
        theirs = box.base / "theirs"
        theirs.mkdir()
        os.chown(theirs, NOBODY, NOBODY)
        done = subprocess.run(
            [
                sys.executable,
                str(Path(__file__).with_name("as_user.py")),
                str(NOBODY),
                "victim",
                str(grants[0]),
                str(victim.pid),
            ],
            env={**box.env, "XDG_RUNTIME_DIR": str(theirs)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {
            "sees": ["victim"],
            "join": "PermissionError",
            "look_into": "PermissionError",
            "admin": "PermissionError",
            "store": "PermissionError",
            "unlink": "PermissionError",
            "set": "NotOwner",
            "remove": "NotOwner",
            "stop": "NotOwner",
            "kill": "PermissionError",
            "all_time": "QuotaExceeded",
            "all_memory": "QuotaExceeded",
            "foreign_root": "NotOwner",
            "any_uid": "NotOwner",
            "held": "NotOwner",
            "labels": "NotOwner",
            "estimate": "NotOwner",
            "estimate_owner": "NotOwner",
            "estimate_as": "NotOwner",
            "runs": 0,
            "add_runs": "NotOwner",
            "own_uid": NOBODY,
            "own_lease": "MEM_GRANT",
            "own_beyond": "MEM_DENY",
            "own_set": "done",
            "own_remove": "done",
            "own_estimate": "done",
            "child": "done",
        }
        assert victim.poll() is None
        after = box.ps("victim")
        assert after
        for key in ("mem_limit_bytes", "mem_leased_bytes", "share_ratio", "clients"):
            assert after[key] == before[key]
