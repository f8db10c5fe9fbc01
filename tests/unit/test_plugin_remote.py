# SPDX-License-Identifier: Apache-2.0
"""Remote shares, the pure part: slots, what a pod says, what its container is given."""

from __future__ import annotations

import pytest

from device_plugin.allocator import Chooser, Refused, prefer
from device_plugin.book import grant_id
from device_plugin.remote_share import (
    SLOTS_MAX,
    PoolSlots,
    capped,
    part_ppm,
    remote_answer,
    remote_limits,
    remote_refine,
)
from device_plugin.slots import LIST_BYTES_MAX
from harp.errors import ConfigError
from harp.keep_wire import Hold, encode, read_request
from harp.model import Limits, TenantClass

GIB = 1 << 30
REQUIRED = {"harp.dev/remote": "required"}
SHARE = Limits(share_ppm=250_000, limit_ppm=250_000)


@pytest.mark.parametrize("count", [1, 30, 100, 250, SLOTS_MAX])
def test_slots_are_of_no_gpu_and_any_of_them_are_a_share(count: int) -> None:
    slots = PoolSlots(count)
    assert len(slots.ids(0)) == len(set(slots.ids(0))) == count
    assert slots.list_bytes <= LIST_BYTES_MAX
    size = min(count, 100)
    free = slots.ids(0)[: size // 2] + slots.ids(0)[count - (size - size // 2) :]
    ids = prefer(slots, free, (), size, Chooser())
    assert sorted(ids) == sorted(free)
    assert remote_limits(slots, ids) == Limits(share_ppm=part_ppm(size), limit_ppm=part_ppm(size))
    assert part_ppm(size) == size * 10_000


@pytest.mark.parametrize("count", [0, -1, SLOTS_MAX + 1])
def test_a_number_of_slots_that_is_none_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match="slots for remote shares"):
        PoolSlots(count)


def test_more_than_one_gpu_and_what_is_not_ours_are_refused() -> None:
    slots = PoolSlots(200)
    with pytest.raises(Refused, match="more than one GPU, and a remote share is of one"):
        remote_limits(slots, slots.ids(0)[:101])
    for ids in ([], ["remote-200"], ["1b2c3d4e-0"], ["remote-00"]):
        with pytest.raises(Refused):
            remote_limits(slots, ids)


def test_a_pod_may_lower_its_share() -> None:
    said = {"harp.dev/memory": "18Gi", "harp.dev/compute": "10", "harp.dev/class": "latency"}
    limits, problems = remote_refine(SHARE, REQUIRED | said)
    assert problems == ()
    assert limits == Limits(18 * GIB, 100_000, 100_000, TenantClass.LATENCY)
    limits, problems = remote_refine(SHARE, REQUIRED | {"harp.dev/compute": "26"})
    assert limits == SHARE
    assert [p.annotation for p in problems] == ["harp.dev/compute"]


def test_without_annotations_the_resource_alone_says_it() -> None:
    assert remote_refine(SHARE, {}) == (SHARE, ())
    assert remote_refine(SHARE, REQUIRED) == (SHARE, ())


def test_memory_that_leaves_a_gpu_is_not_for_remote_shares() -> None:
    limits, problems = remote_refine(SHARE, REQUIRED | {"harp.dev/oversubscribe": "true"})
    assert limits == SHARE
    assert "not for remote shares" in problems[0].message
    assert remote_refine(SHARE, REQUIRED | {"harp.dev/oversubscribe": "false"}) == (SHARE, ())


@pytest.mark.parametrize(
    ("said", "words"),
    [("preferred", "not in this version"), ("require", "did you mean 'required'"), ("", "answer")],
)
def test_what_is_not_done_is_refused_in_words(said: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        remote_refine(SHARE, {"harp.dev/remote": said})
    assert error.value.hint


def test_memory_beyond_the_part_is_told() -> None:
    assert capped(20 * GIB, 20 * GIB) == ""
    assert capped(0, 5) == ""
    assert "20GiB is more than the share has on the GPU that it got, 19GiB" in capped(
        20 * GIB, 19 * GIB
    )


def test_a_container_is_given_nothing_of_this_node_but_our_files() -> None:
    given = remote_answer("/var/lib/harp/shim/0", "/run/harp/keep/boxes/k", ["/usr/lib64"])
    assert given.env == {
        "HARP_REMOTE": "/opt/harp/remote/near.sock",
        "LD_PRELOAD": "/opt/harp/shim/libcuda.so.1",
        "NVIDIA_VISIBLE_DEVICES": "void",
    }
    assert given.nodes == ()
    mounts = {mount.inside: mount.host for mount in given.mounts}
    assert all(mount.read_only for mount in given.mounts)
    assert mounts["/opt/harp/remote"] == "/run/harp/keep/boxes/k"
    assert {path for path in mounts if path.startswith("/usr/lib64/")} == {
        f"/usr/lib64/lib{name}.so{end}" for name in ("cuda", "nvidia-ml") for end in ("", ".1")
    }


def test_any_grant_has_a_key_that_the_keeper_takes() -> None:
    slots = PoolSlots(SLOTS_MAX)
    for ids in (slots.ids(0)[:1], slots.ids(0)[-100:]):
        hold = Hold(grant_id(ids), "ns/pod/main", part_ppm(len(ids)), SHARE)
        assert read_request(encode(hold)) == hold
