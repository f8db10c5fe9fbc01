# SPDX-License-Identifier: Apache-2.0
"""The same training on the CPU, and what "equal" means.

tinygrad's CPU backend wants one program that is clang. Where there is none, the clang inside
PyPI's `ziglang` (a dependency of the demo) serves, through a two-line script.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from harp.demo.tenant import Tenant
from harp.errors import BuildMissing

__all__ = ["LOSS_ABS", "LOSS_REL", "cpu_env", "difference", "train_on_cpu"]

#: Two losses are equal if they differ by at most LOSS_ABS + LOSS_REL * loss. The devices sum in
#: another order and approximate exp2 and log2, and training amplifies the last bits over hundreds
#: of steps; a wrong kernel is off by far more from the first steps on.
LOSS_ABS = 2e-4
LOSS_REL = 5e-3

_TIMEOUT_S = 120.0


@contextmanager
def cpu_env(env: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """`env` made fit for DEV=CPU; a script written for it is removed afterwards.

    Raises:
        BuildMissing: there is neither clang nor ziglang.
    """
    clean = {k: v for k, v in env.items() if not k.startswith(("LD_", "HARP_"))}
    with tempfile.TemporaryDirectory(prefix="harp-demo-") as folder:
        compiler = shutil.which("clang")
        if compiler is None:
            if importlib.util.find_spec("ziglang") is None:
                raise BuildMissing(
                    "tinygrad's CPU backend needs clang, and there is none", "pip install ziglang"
                )
            script = Path(folder) / "clang"
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ziglang clang "$@"\n')
            script.chmod(0o755)
            compiler = str(script)
        yield {**clean, "DEV": "CPU", "CC": compiler, "PYTHONDONTWRITEBYTECODE": "1"}


def train_on_cpu(seed: int, steps: int, env: Mapping[str, str]) -> dict[int, float]:
    """Trains `steps` steps on the CPU: {step: loss}.

    Args:
        seed: of data order and weights.
        steps: how many.
        env: from cpu_env.

    Raises:
        HarpError: the training failed.
    """
    tenant = Tenant(f"CPU run, seed {seed}", Tenant.command(seed=seed, steps=steps), env)
    try:
        tenant.finish(ask=False, timeout_s=_TIMEOUT_S)
        return dict(tenant.losses)
    finally:
        tenant.kill()


def difference(losses: Mapping[int, float], reference: Mapping[int, float]) -> float:
    """Worst difference of losses of the same step, in units of what is allowed: <= 1 is equal.

    Steps the reference lacks count as unequal.
    """
    worst = 0.0
    for step, loss in losses.items():
        expected = reference.get(step, float("inf"))
        ratio = abs(loss - expected) / (LOSS_ABS + LOSS_REL * abs(expected))
        worst = max(worst, ratio if ratio == ratio else float("inf"))  # noqa: PLR0124  NaN
    return worst
