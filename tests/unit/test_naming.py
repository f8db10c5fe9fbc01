# SPDX-License-Identifier: Apache-2.0
"""Names of tenants."""

from __future__ import annotations

import pytest

from harp.daemon.naming import tenant_name
from harp.errors import ConfigError, TenantExists


def test_the_name_asked_for_is_kept() -> None:
    assert tenant_name("a.b-c_1", "python", 7, set()) == "a.b-c_1"


@pytest.mark.parametrize("name", ["-a", ".a", "a b", "a/b", "a\n", "\u00e4", "a" * 49])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is no tenant name"):
        tenant_name(name, "python", 7, set())


def test_a_containers_name_has_three_parts() -> None:
    name = "team-a/web-0.x/main"
    assert tenant_name(name, "pod", 0, set(), container=True) == name
    longest = "/".join(("n" * 63, "p" * 253, "c" * 63))
    assert tenant_name(longest, "pod", 0, set(), container=True) == longest
    with pytest.raises(TenantExists):
        tenant_name(name, "pod", 0, {name}, container=True)


@pytest.mark.parametrize("name", ["a/b", "a/b/c/d", "/b/c", "a//c", "a/../c", "A/b/c", "a/b/c\n"])
def test_what_is_no_containers_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is no tenant name"):
        tenant_name(name, "pod", 0, set(), container=True)


def test_only_a_container_is_called_so() -> None:
    with pytest.raises(ConfigError, match="is no tenant name"):
        tenant_name("a/b/c", "pod", 0, set())


def test_a_name_that_lives_is_refused() -> None:
    with pytest.raises(TenantExists, match="runs already"):
        tenant_name("a", "python", 7, {"a"})


@pytest.mark.parametrize(
    ("program", "made"),
    [
        ("/usr/bin/python3", "python3-7"),
        ("./my job.sh", "my-job.sh-7"),
        ("---", "tenant-7"),
        ("x" * 60, "x" * 32 + "-7"),
    ],
)
def test_names_are_made_of_program_and_process(program: str, made: str) -> None:
    assert tenant_name("", program, 7, set()) == made


def test_made_names_are_counted_up() -> None:
    assert tenant_name("", "job", 7, {"job-7", "job-7.2"}) == "job-7.3"
