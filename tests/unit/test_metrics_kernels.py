# SPDX-License-Identifier: Apache-2.0
"""Which kernels have series, that they only grow, and what links them to a trace."""

from __future__ import annotations

import asyncio
import mmap
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metrics_cases import device, everything, kernels, seen, tenant
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from structlog.testing import capture_logs

import harp.daemon.apart as daemon_apart
import harp.daemon.profiles as daemon_profiles
from harp.config import DaemonConfig
from harp.daemon.profiles import Profiles
from harp.metrics import DAEMON, GrantSeen, KernelsSeen, Tops, expose, samples
from harp.metrics.kernels import KERNELS
from harp.model import Tenant, Use
from harp.profile import OTHER, SIZE, Kernel, Page, Profile, make, read_bytes
from harp.trace.control import Wish, tell, untell

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
COUNTS = ("launches", "blocks", "measured_launches", "measured_ns", "predicted_ns")


def profile(**ns: int) -> Profile:
    """Kernels with so much time, each launched once."""
    return Profile(tuple(Kernel(name, 1, 1, 1, value) for name, value in ns.items()))


def named(found: tuple[Kernel, ...]) -> dict[str, int]:
    return {kernel.name: kernel.ns for kernel in found}


def test_the_largest_have_series_and_keep_them() -> None:
    tops = Tops(2)
    assert named(tops.see("t", profile(a=10, b=8, c=1))) == {"a": 10, "b": 8, OTHER: 1}
    # more than another's, not twice as much
    assert named(tops.see("t", profile(a=10, b=8, c=15))) == {"a": 10, "b": 8, OTHER: 15}
    # now it is: it begins with all it did, and what `b` does from now on goes to the others
    assert named(tops.see("t", profile(a=10, b=8, c=17))) == {"c": 17, "a": 10, OTHER: 15}
    assert named(tops.see("t", profile(a=10, b=11, c=17))) == {"c": 17, "a": 10, OTHER: 18}
    assert named(tops.see("u", profile(a=1))) == {"a": 1}, "another tenant"
    tops.keep(["u"])
    assert named(tops.see("t", profile(b=11, d=2))) == {"b": 11, "d": 2}, "it began anew"


def test_the_page_s_own_others_are_among_them() -> None:
    tops = Tops(1)
    page = Profile((Kernel(OTHER, 5, 5), Kernel("a", 1, 1, 1, 9), Kernel("b", 1, 1, 1, 3)))
    assert tops.see("t", page) == (Kernel("a", 1, 1, 1, 9), Kernel(OTHER, 6, 6, 1, 3))
    assert tops.see("t", page)[1] == Kernel(OTHER, 6, 6, 1, 3), "counted once"
    assert Tops(0).see("t", page) == ()


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 1 << 40), max_size=8),
        max_size=12,
    ),
    st.integers(1, 4),
    st.integers(4, 8),
)
def test_series_only_grow_and_are_so_many(
    steps: list[dict[str, int]], most: int, ever: int
) -> None:
    tops = Tops(most, ever)
    total: dict[str, int] = {}
    before: dict[str, Kernel] = {}
    for step in steps:
        for name, ns in step.items():
            total[name] = total.get(name, 0) + ns
        found = {k.name: k for k in tops.see("t", profile(**total))}
        assert len(found) <= most + 1
        for name, kernel in found.items():
            if name in before:
                assert all(getattr(kernel, c) >= getattr(before[name], c) for c in COUNTS)
            if name != OTHER:
                assert kernel.ns == total[name]
        assert len({*before, *found} - {OTHER}) <= ever
        before |= found  # and what a series said that ended
        assert sum(k.ns for k in before.values()) >= sum(total.values()), "nothing is missing"


def test_who_makes_up_names_for_ever_has_no_more_series_than_said() -> None:
    tops, names = Tops(5), {"a"}
    tops.see("t", profile(a=500))
    for step in range(100):
        made_up = {f"k{step}_{i}": 1000 + i for i in range(5)}
        found = named(tops.see("t", profile(a=500, **made_up)))
        names |= found.keys()
    assert len(names) == 64 + 1
    shown_ns = 15 * (1004 + 1003 + 1002 + 1001) + 1004 + 1003 + 1002
    assert found == {"a": 500, OTHER: 100 * 5010 - shown_ns}, "and nothing is missing"
    (most,) = (f.metadata["key"].high for f in fields(DaemonConfig) if f.name == "metrics_kernels")
    assert most < 64


def test_a_tenant_has_no_more_series_than_said() -> None:
    many = KernelsSeen(
        tuple(Kernel(f"k{i}", 2, 2, 1, 9, 1, 9, 32, 0.5) for i in range(5)), kernels().copied_bytes
    )
    one = GrantSeen(tenant(1, "t"), 0, 0, ((device(), Use()),))
    more = len(samples(seen(replace(one, kernels=many)))) - len(samples(seen(one)))
    # of each: seconds of two sources, runs, occupancy; and one a way of copies
    assert more == 5 * len(KERNELS) + len(many.copied_bytes)


def test_the_library_s_parser_finds_the_trace() -> None:
    text = expose(DAEMON, samples(everything()), OPENMETRICS)[0].decode()
    found = [
        (s.name, s.labels["kernel"], s.exemplar)
        for metric in parse_openmetrics(text)
        for s in metric.samples
        if s.exemplar is not None
    ]
    assert {(name, kernel) for name, kernel, _ in found} == {
        ("harp_grant_kernel_seconds_total", "gemm"),
        ("harp_grant_kernel_seconds_total", OTHER),
    }
    one = found[0][2]
    assert one.labels == {"trace_id": "0123abcd", "file": "run.trace"}
    assert (one.value, float(one.timestamp)) == (1.202, 1_800_000_000.25)
    plain = expose(DAEMON, samples(everything()))[0].decode()
    assert "trace_id" not in plain, "Prometheus's own text has no place for it"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    grant = tmp_path / "grant"
    grant.mkdir()
    make(grant)
    launch(grant, b"gemm", 7)
    return grant


def launch(grant: Path, name: bytes, launches: int) -> None:
    """As a process of the tenant's does."""
    row = 256 + 2 * 192
    with (grant / "profile").open("r+b") as file:
        file.seek(row + 8)
        for count in (launches, launches, 1, 1000):  # blocks, measured: one of 1 us
            file.write(count.to_bytes(8, "little"))
        file.seek(row + 56)
        file.write((1).to_bytes(4, "little"))
        file.seek(row + 72)
        file.write(name)


def of(grant: Path, number: int = 1) -> Tenant:
    return replace(tenant(number, "t"), grant_dir=str(grant), uid=os.geteuid())


def test_a_running_trace_is_an_example(folder: Path) -> None:
    async def scenario() -> None:
        profiles = Profiles(5)
        (one,) = (await profiles.look([of(folder)])).values()
        assert [k.name for k in one.kernels] == ["gemm"]
        assert one.exemplar is None
        name = "é" * 40 + "x" * 100
        tell(folder, Wish(Path("/secret") / name, ident="abc"))
        (one,) = (await profiles.look([of(folder)])).values()
        assert one.exemplar is not None
        labels = dict(one.exemplar.labels)
        assert labels["trace_id"] == "abc"
        assert name.startswith(labels["file"])
        assert sum(len(a) + len(b) for a, b in one.exemplar.labels) == 128
        untell(folder)
        (one,) = (await profiles.look([of(folder)])).values()
        assert one.exemplar is None

    asyncio.run(scenario())


def test_who_has_a_page_is_read_there(folder: Path) -> None:
    """A container's trace is told in its folder all the same."""
    page = Page.make()

    async def scenario() -> None:
        profiles = Profiles(5)
        both = [of(folder), of(folder.parent / "pod", 2)]
        assert set(await profiles.look(both, {2: page})) == {1}, "nobody writes to it"
        with mmap.mmap(page.fd, SIZE) as mapped:
            mapped[:] = (folder / "profile").read_bytes().replace(b"gemm", b"conv")
        found = await profiles.look(both, {2: page})
        names = {n: [k.name for k in one.kernels] for n, one in found.items()}
        assert names == {1: ["gemm"], 2: ["conv"]}
        again = await profiles.look([of(folder)], {1: page})
        assert [k.name for k in again[1].kernels] == ["conv"], "whatever the folder says"
        tell(folder, Wish(Path("/t/run"), ident="abc"))
        again = await profiles.look([of(folder)], {1: page})
        assert again[1].exemplar is not None

    asyncio.run(scenario())


def test_whatever_a_trace_is_called_it_can_be_told(folder: Path) -> None:
    name = os.fsencode("a") + b'\xff"\\'
    (folder / "trace").write_bytes(b"file=/x/" + name + b"\nid=\xc3\xa9\x01\n")

    async def scenario() -> KernelsSeen:
        (one,) = (await Profiles(5).look([of(folder)])).values()
        return one

    grant = GrantSeen(tenant(1, "t"), 0, 0, (), kernels=asyncio.run(scenario()))
    text = expose(DAEMON, samples(seen(grant)), OPENMETRICS)[0].decode()
    examples = [s.exemplar for m in parse_openmetrics(text) for s in m.samples if s.exemplar]
    assert {e.labels["file"] for e in examples} == {"a???"}


def test_a_folder_that_does_not_answer_costs_its_series_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_apart, "_PATIENCE_S", 0.02)
    answers, calls = threading.Event(), []

    def hangs(path: Path, uid: int) -> bytes | None:
        calls.append(path)
        answers.wait(20)
        return read_bytes(path, uid)

    monkeypatch.setattr(daemon_profiles, "read_bytes", hangs)

    async def scenario() -> None:
        profiles = Profiles(5)
        assert await profiles.look([of(folder)]) == {}
        assert await profiles.look([of(folder)]) == {}
        assert len(calls) == 1, "it is not asked again meanwhile"
        answers.set()
        for _ in range(200):
            if found := await profiles.look([of(folder)]):
                break
            await asyncio.sleep(0.01)
        assert [k.name for k in found[1].kernels] == ["gemm"]
        assert len(calls) == 2, "nobody waited in a queue"

    asyncio.run(scenario())


def copies(folder: Path, more: int) -> list[Path]:
    """More folders like it."""
    made = [folder.with_name(f"grant-{i}") for i in range(more)]
    for one in made:
        shutil.copytree(folder, one)
    return made


def hang(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> threading.Event:
    """Have these folders not answer before the event."""
    monkeypatch.setattr(daemon_apart, "_PATIENCE_S", 0.05)
    answers = threading.Event()

    def reads(path: Path, uid: int) -> bytes | None:
        if path in folders:
            answers.wait(20)
        return read_bytes(path, uid)

    monkeypatch.setattr(daemon_profiles, "read_bytes", reads)
    return answers


def test_one_that_hangs_takes_no_other_tenant_s_series(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    also, *hanging = copies(folder, 6)
    answers = hang(monkeypatch, *hanging)

    async def scenario() -> None:
        profiles = Profiles(5)
        mine, after = of(folder, 1), of(also, 9)
        assert set(await profiles.look([mine, after])) == {1, 9}
        all_of_them = [mine, *(of(one, 2 + i) for i, one in enumerate(hanging)), after]
        assert set(await profiles.look([*all_of_them[:2], after])) == {1, 9}, "the last result"
        launch(also, b"gemm", 70)
        found = await profiles.look([*all_of_them[:2], after])
        assert found[9].kernels[0].launches == 70, "read again, though one hangs"
        for _ in range(3):
            await profiles.look(all_of_them)
        assert set(await profiles.look(all_of_them)) == {1}, "the last result, once"
        assert await profiles.look(all_of_them) == {}, "who has too many that hang is not read"
        assert threading.active_count() <= 2 + daemon_apart._HANGING
        answers.set()
        for _ in range(200):
            if len(found := await profiles.look(all_of_them)) == len(all_of_them):
                break
            await asyncio.sleep(0.01)
        assert set(found) == {one.tenant_id for one in all_of_them}

    asyncio.run(scenario())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files of two users")
def test_another_user_s_folder_is_not_read_as_one_s_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = of(folder, 1), replace(of(folder, 2), uid=4242)
    assert set(asyncio.run(Profiles(5).look([mine, theirs]))) == {1}
    (stuck,) = copies(folder, 1)
    answers = hang(monkeypatch, stuck)
    os.chown(folder / "profile", 4242, -1)
    tell(folder, Wish(Path("/by-root"), ident="r"))
    found = asyncio.run(Profiles(5).look([theirs, of(stuck, 3)]))
    answers.set()
    assert set(found) == {2}, "users are read apart"
    assert found[2].exemplar is not None, "root may trace anybody"
    os.chown(folder / "trace", 4343, -1)
    (seen,) = asyncio.run(Profiles(5).look([theirs])).values()
    assert seen.exemplar is None


def test_what_is_no_folder_s_name_breaks_nothing(folder: Path) -> None:
    odd = [replace(of(folder, 2), grant_dir=name) for name in ("/x\0y", "x" * 5000, "/\ud800")]
    assert set(asyncio.run(Profiles(5).look([*odd, of(folder)]))) == {1}


def test_whatever_reading_raises_is_logged_and_no_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise KeyError("odd")

    monkeypatch.setattr(daemon_profiles, "decode", breaks)
    with capture_logs() as logs:
        assert asyncio.run(Profiles(5).look([of(folder)])) == {}
    assert [line["event"] for line in logs] == ["folder_reading_broken"]


def test_a_scrape_that_was_given_up_leaves_the_next_its_series(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = hang(monkeypatch, folder)
    monkeypatch.setattr(daemon_apart, "_PATIENCE_S", 10.0)

    async def scenario() -> None:
        profiles = Profiles(5)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await profiles.look([of(folder)])
        asyncio.get_running_loop().call_later(0.05, answers.set)
        assert set(await profiles.look([of(folder)])) == {1}

    asyncio.run(scenario())


def test_what_hangs_does_not_keep_the_process_from_ending() -> None:
    program = (
        "import asyncio, threading, harp.daemon.apart as a; a._PATIENCE_S = 0.05;"
        "print(asyncio.run(a.Apart().run(1, threading.Event().wait)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], timeout=30, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "None"


def test_nothing_is_read_where_no_series_are_wanted(folder: Path) -> None:
    assert asyncio.run(Profiles(0).look([of(folder)])) == {}
    assert (
        asyncio.run(Profiles(5).look([of(folder / "none"), replace(of(folder), grant_dir="")]))
        == {}
    )
