# SPDX-License-Identifier: Apache-2.0
"""The lines between the device plugin and `harp remote keep`."""

from __future__ import annotations

import contextlib
import inspect
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harp import errors
from harp.errors import ConfigError, HarpError, QuotaExceeded, WireError
from harp.keep_wire import (
    FOLDER,
    Device,
    Held,
    Hold,
    Look,
    Looked,
    Refused,
    Release,
    Released,
    encode,
    read_answer,
    read_request,
)
from harp.model import Limits, TenantClass
from harp.remote import serving

LIMITS = Limits(5 << 30, 250_000, 250_000, TenantClass.BEST_EFFORT)
DEVICE = Device("GPU-0", "NVIDIA H100", False, 5 << 30, 250_000, 0)
HELD = Held("k-1", "ns/pod/main", "n1", "h:7443", "abc", (DEVICE,), 3)


@pytest.mark.parametrize("request_", [Hold("k-1", "ns/a/b", 250_000, LIMITS), Release("k"), Look()])
def test_requests_arrive_as_they_were(request_: Hold | Release | Look) -> None:
    assert read_request(encode(request_)) == request_


@pytest.mark.parametrize(
    "answer",
    [HELD, Held("k", "n", why="lost"), Released(was=True), Looked((HELD, HELD)), Looked(())],
)
def test_answers_arrive_as_they_were(answer: Held | Released | Looked) -> None:
    assert read_answer(encode(answer)) == answer


def test_every_error_arrives_as_what_it_is() -> None:
    kinds = [k for _, k in inspect.getmembers(errors, inspect.isclass) if issubclass(k, HarpError)]
    assert len(kinds) > 20
    for kind in kinds:
        with pytest.raises(HarpError) as error:
            read_answer(encode(Refused(kind("no\nroom", "wait"))))
        assert type(error.value) is kind
        assert (error.value.message, error.value.hint) == ("no\nroom", "wait")


def test_an_error_that_is_finer_than_the_table_arrives_as_its_kind() -> None:
    class Finer(QuotaExceeded):
        pass

    with pytest.raises(QuotaExceeded) as error:
        read_answer(encode(Refused(Finer("a", "b"))))
    assert type(error.value) is QuotaExceeded


@pytest.mark.parametrize("key", ["", "../x", "a/b", ".x", "-x", "a" * 65, 5, None])
def test_a_key_that_is_no_folders_name_is_refused(key: object) -> None:
    for word in ("release", "hold"):
        rest = {"key": key, "name": "n", "mem_ppm": 1, "limits": {"tenant_class": "standard"}}
        with pytest.raises(ConfigError, match="the key"):
            read_request(json.dumps({word: rest}).encode())


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"[]", b"5", b'{"hold": 5}', b'{"hold": {}}', b'{"look": {}, "x": {}}',
     b'{"drop": {}}', b'{"hold": {"key": "k", "name": "n", "mem_ppm": "x", "limits": {}}}',
     b'{"hold": {"key": "k", "name": "n", "mem_ppm": 1, "limits": {"tenant_class": "x"}}}',
     b'{"hold":{"key":"k","name":"","mem_ppm":1,"limits":{"tenant_class":"latency","y":1}}}'],
)  # fmt: skip
def test_what_is_no_request_is_refused(line: bytes) -> None:
    with pytest.raises(WireError):
        read_request(line)


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["hold", "held", "looked", "refused", "key", "kind", "text", "devices"]),
        inner, max_size=3),
    max_leaves=9,
).map(lambda said: json.dumps(said).encode()))  # fmt: skip
def test_whatever_comes_is_read_or_refused(line: bytes) -> None:
    for read in (read_request, read_answer):
        with contextlib.suppress(HarpError):
            read(line)


def test_the_keepers_folder_is_not_the_pool_servers() -> None:
    """A server that starts sweeps its own: a node that does both would lose its containers'."""
    assert FOLDER != serving.FOLDER
