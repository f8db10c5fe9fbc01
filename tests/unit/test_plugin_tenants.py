# SPDX-License-Identifier: Apache-2.0
"""Names of grants at harpd, and their folders."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plugin_cases import slots_of

from device_plugin.book import Grant, grant_id
from device_plugin.identity import Owner
from device_plugin.tenants import alive, drop_folder, make_folder, tenant_name
from harp.daemon.naming import tenant_name as taken_by_harpd
from harp.errors import RunDirUnsafe
from harp.model import Limits

SLOTS = slots_of(1)


def grant(owner: Owner | None, count: int = 5) -> Grant:
    ids = frozenset(SLOTS.ids(0)[:count])
    return Grant(grant_id(ids), ids, (), Limits(), owner)


#: as Kubernetes takes them: a label for namespaces and containers, a subdomain for pods
LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
SUBDOMAIN = st.lists(LABEL, min_size=1, max_size=4).map(".".join).filter(lambda s: len(s) <= 253)


@settings(deadline=None)
@given(LABEL, SUBDOMAIN, LABEL)
def test_harpd_takes_the_name_of_any_pod(namespace: str, pod: str, container: str) -> None:
    name = tenant_name(grant(Owner(namespace, pod, container)))
    assert taken_by_harpd(name, "", 1, set(), container=True) == name


def test_names_say_who_it_is() -> None:
    assert tenant_name(grant(Owner("ns", "web-0", "main"))) == "ns/web-0/main"
    name = tenant_name(grant(None))
    assert name == grant(None).id
    assert taken_by_harpd(name, "", 1, set()) == name


@pytest.fixture
def short() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="hp-"))  # pytest's are too long for sockets
    yield path
    shutil.rmtree(path)


def test_a_folder_is_open_to_the_container_and_closed_on_the_host(short: Path) -> None:
    before = os.umask(0o077)
    try:
        folder = make_folder(short / "run" / "grants", "g")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    inode = folder.stat().st_ino
    assert make_folder(short / "run" / "grants", "g").stat().st_ino == inode
    drop_folder(folder)
    drop_folder(folder)
    assert not folder.exists()


def test_a_path_too_long_for_a_socket_is_refused_with_the_remedy(short: Path) -> None:
    with pytest.raises(RunDirUnsafe, match="too long for a socket") as said:
        make_folder(short / ("x" * 90), "g")
    assert "shorter" in said.value.hint
    assert list(short.iterdir()) == []


def test_who_listens_is_alive(short: Path) -> None:
    assert not alive(short)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(short / "arbiter.sock"))
        assert not alive(short)
        sock.listen(1)
        assert alive(short)
        callers = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(4)]
        for caller in callers:
            caller.setblocking(False)
            try:
                caller.connect(str(short / "arbiter.sock"))
            except BlockingIOError:
                break
        else:
            pytest.fail("the queue is not full")
        assert alive(short)
        for caller in callers:
            caller.close()
    assert not alive(short)
