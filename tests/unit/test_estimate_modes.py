# SPDX-License-Identifier: Apache-2.0
"""harp.estimator.modes: what may come of an estimate, and for whom."""

from __future__ import annotations

import pytest

from harp.errors import ConfigError
from harp.estimator.modes import Mode, mode_of, read_modes

OTHERS = read_modes("training=enforce, uid:1000=recommend")


@pytest.mark.parametrize(
    ("namespace", "uid", "expected"),
    [
        ("training", 0, Mode.ENFORCE),
        ("other", 1000, Mode.OBSERVE),  # a pod's uid is no user of this machine
        ("", 1000, Mode.RECOMMEND),
        ("", 1001, Mode.OBSERVE),
    ],
)
def test_the_mode_of_a_job(namespace: str, uid: int, expected: Mode) -> None:
    assert mode_of(Mode.OBSERVE, OTHERS, namespace=namespace, uid=uid) is expected


@pytest.mark.parametrize(
    "text", ["training", "training=", "training=maybe", "uid:x=enforce", "A=enforce", "a=b=enforce"]
)
def test_what_is_no_mode_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="MODE"):
        read_modes(text)


def test_nothing_is_nobody_and_twice_is_refused() -> None:
    assert read_modes("") == {}
    with pytest.raises(ConfigError, match="twice"):
        read_modes("a=enforce,a=observe")
