# SPDX-License-Identifier: Apache-2.0
"""Settings: sources, ranges, unknown keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from harp import config
from harp.errors import ConfigError


def _file(tmp_path: Path, text: str) -> dict[str, str]:
    path = tmp_path / "harp.toml"
    path.write_text(text)
    return {"HARP_CONFIG": str(path)}


def test_defaults_hold_when_nothing_is_said(tmp_path: Path) -> None:
    assert config.load({"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}) == config.Config()


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    env = _file(tmp_path, "[watchdog]\nperiod_s = 2\nconfirm_count = 3\npolicy = 'stop'\n")
    env |= {"HARP_CONFIG_WATCHDOG_PERIOD_S": "4", "HARP_CONFIG_WATCHDOG_CONFIRM_COUNT": "5"}
    tree = config.load(env, ("watchdog.period_s=8",))
    assert (tree.watchdog.period_s, tree.watchdog.confirm_count) == (8.0, 5)
    assert tree.watchdog.policy == "stop"


@pytest.mark.parametrize(
    ("env", "flags", "says", "hint"),
    [
        ({"HARP_CONFIG_WATCHDOG_PERIOD": "1"}, (), "unknown key", "HARP_CONFIG_WATCHDOG_PERIOD_S"),
        ({}, ("watchdog.periods=1",), "unknown key watchdog.periods", "watchdog.period_s"),
        ({}, ("watchdog.period_s=900",), "out of range", "0.1 to 60 s"),
        ({}, ("watchdog.confirm_count=2.5",), "is no int", "1 to 100"),
        ({}, ("watchdog.period_s=soon",), "is no float", "0.1 to 60 s"),
        ({}, ("device.kind=amd",), "is unknown", "auto|nvidia|software"),
        ({}, ("time.policy=cfs",), "time.policy = 'cfs'", "drr|priority|fifo"),
        ({}, ("time.quantum_us=500",), "time.quantum_us = '500'", "1000 to 50000 us"),
        ({}, ("time.quantum=5000",), "unknown key time.quantum", "time.quantum_us"),
        ({}, ("time.burst_us=2000000",), "out of range", "0 to 1000000 us"),
        ({}, ("log.level",), "no value", "key=value"),
        (
            {},
            ("daemon.metrics_listen=:9409",),
            "daemon.metrics_listen (--set): ':9409'",
            "HOST:PORT",
        ),
        ({}, ("daemon.metrics_listen=9409x",), "no address to listen on", "PORT (loopback"),
        ({}, ("daemon.metrics_listen=65536",), "no address to listen on", "PORT (loopback"),
        ({}, ("daemon.metrics_listen=::1:9409",), "no address to listen on", "PORT (loopback"),
    ],
)
def test_a_wrong_setting_names_value_range_and_nearest_key(
    env: dict[str, str], flags: tuple[str, ...], says: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load({"XDG_CONFIG_HOME": str(tmp_path), **env}, flags)
    assert says in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[watchdog]\nperiod = 1\n", "unknown key watchdog.period"),
        ("period_s = 1\n", "unknown key period_s"),
        ("[watchdog]\nperiod_s = true\n", "is no float"),
        ("[watchdog]\nconfirm_count = 2.5\n", "is not whole"),
        ("[watchdog\n", "cannot read"),
    ],
)
def test_a_wrong_file_is_an_error(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        config.load(_file(tmp_path, text))


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not there"):
        config.load({"HARP_CONFIG": str(tmp_path / "none.toml")})


def test_every_key_has_a_sentence_and_a_legal_default() -> None:
    for key in config.all_keys():
        assert key.text.endswith("."), key.name
        assert key.range, key.name
        assert key.check(key.default, "default") == key.default
        if key.name.endswith("_s"):
            assert key.unit == "s"
        if key.name.endswith("_bytes"):
            assert key.unit == "bytes"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", None),
        ("9409", ("127.0.0.1", 9409)),
        ("0", ("127.0.0.1", 0)),
        ("0.0.0.0:9409", ("0.0.0.0", 9409)),
        ("node-1.lan:9409", ("node-1.lan", 9409)),
        ("[::]:9409", ("::", 9409)),
    ],
)
def test_a_port_alone_is_of_this_machine_alone(
    text: str, address: tuple[str, int] | None, tmp_path: Path
) -> None:
    assert config.listen_address(text) == address
    found = config.load({"XDG_CONFIG_HOME": str(tmp_path)}, (f"daemon.metrics_listen={text}",))
    assert found.daemon.metrics_listen == text
