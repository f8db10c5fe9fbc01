# SPDX-License-Identifier: Apache-2.0
"""Whose a tenant is, and who may ask for one of any uid."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harp.daemon.owners import Wish, check_container, check_folder_name, check_user, own_process
from harp.errors import ConfigError, NotOwner, QuotaExceeded
from harp.model import Limits, Policy

JOB = Wish("t", "prog", 0, "0", Limits(), Policy.WARN, 1, "/nowhere/grants/t")
ASKS = {
    "of any uid": {"any_uid": True},
    "that is held": {"held": True},
    "with labels": {"labels": (("pod", "a"),)},
}


@pytest.mark.parametrize(("what", "asked"), ASKS.items())
def test_root_alone_asks_harpd_of_root_for_a_containers_tenant(
    what: str, asked: dict[str, Any]
) -> None:
    with pytest.raises(NotOwner, match=f"uid 1000 asks for a tenant {what}"):
        check_container(1000, 1000, replace(JOB, **asked))
    with pytest.raises(NotOwner, match=f"uid 1000 asks for a tenant {what}"):
        check_container(1000, 0, replace(JOB, **asked))
    with pytest.raises(NotOwner, match=f"harpd of uid 1000 makes no tenant {what}"):
        check_container(0, 1000, replace(JOB, **asked))
    check_container(1000, 1000, JOB)
    check_container(1000, 0, JOB)


def test_root_may_hold_and_label_a_tenant() -> None:
    check_container(0, 0, replace(JOB, held=True, labels=(("namespace", "a"), ("pod", "b"))))


@pytest.mark.parametrize(
    "labels",
    [
        (("Pod", "a"),),
        (("", "a"),),
        (("a-b", "a"),),
        (("pod", "x" * 254),),
        tuple((f"l{i}", "") for i in range(9)),
    ],
)
def test_what_is_no_label_is_refused(labels: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(ConfigError, match="no labels of a tenant"):
        check_container(0, 0, replace(JOB, labels=labels))


def test_of_one_uid_and_of_any_is_refused() -> None:
    with pytest.raises(ConfigError, match="of one uid or of any"):
        check_container(0, 0, replace(JOB, uid=7, for_root=True, any_uid=True))


@pytest.mark.skipif(os.geteuid() != 0, reason="folders of root")
def test_a_socket_of_any_uid_lies_where_others_do_not_get(tmp_path: Path) -> None:
    folder = tmp_path / "grants" / "g"
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    asked = replace(JOB, any_uid=True, grant_dir=str(folder))
    folder.parent.chmod(0o700)
    check_container(0, 0, asked)

    def refused(path: Path = folder) -> None:
        with pytest.raises(ConfigError, match=r"does not keep others|cannot be looked at"):
            check_container(0, 0, replace(asked, grant_dir=str(path)))

    for mode in (0o755, 0o710, 0o701):
        folder.parent.chmod(mode)
        refused()
    folder.parent.chmod(0o700)
    folder.chmod(0o777)
    refused()
    folder.chmod(0o755)
    os.chown(folder, 1000, 1000)
    refused()
    os.chown(folder, 0, 0)
    os.chown(folder.parent, 1000, 1000)
    refused()
    os.chown(folder.parent, 0, 0)
    check_container(0, 0, asked)
    refused(folder.parent / "none")
    (folder.parent / "link").symlink_to(folder)
    refused(folder.parent / "link")


def test_containers_are_not_one_users_tenants() -> None:
    """A node has as many as it has; root's jobs are counted without them."""

    def living(*, held: bool) -> Any:
        return SimpleNamespace(name="x", uid=0, for_root=False, held=held)

    pods = [living(held=True)] * 9
    check_user(JOB, cast("Any", pods), 1)
    check_user(replace(JOB, held=True), cast("Any", [*pods, living(held=False)]), 1)
    with pytest.raises(QuotaExceeded):
        check_user(JOB, cast("Any", [*pods, living(held=False)]), 1)


def test_a_process_is_the_callers_own_or_its_childs() -> None:
    me, uid = os.getpid(), os.getuid()
    assert own_process(me, me, uid)
    assert not own_process(os.getppid(), me, uid), "a parent is no child"
    with subprocess.Popen(["sleep", "60"]) as child:
        assert own_process(child.pid, me, uid)
        assert not own_process(child.pid, me, uid + 1), "another user's program now"
        assert not own_process(child.pid, os.getppid(), uid), "a child's child"
        child.kill()
    assert not own_process(child.pid, me, uid), "it is gone"


@pytest.mark.parametrize("name", ["x", "./x", "/x\0y", "\0"])
def test_a_grant_s_folder_has_an_absolute_name(name: str) -> None:
    with pytest.raises(ConfigError, match="is no name of a grant's folder"):
        check_folder_name(name)
    for good in ("/run/user/1000/harp/grants/é", ""):
        check_folder_name(good)
