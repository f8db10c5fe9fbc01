# SPDX-License-Identifier: Apache-2.0
"""A pool's authority on disk: made once, whole or not at all, and judged when it is read."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st
from remote_world import client, node, pool

from harp.errors import CertificateError, ConfigError
from harp.remote import authority
from harp.remote.callers import LOOPBACK
from harp.remote.certificate import Kind, read
from harp.remote.trust import load

NOW = dt.datetime(2026, 11, 26, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def tree(base: Path) -> dict[str, bytes]:
    return {str(p.relative_to(base)): p.read_bytes() for p in base.rglob("*") if p.is_file()}


def modes(base: Path) -> dict[str, int]:
    return {str(p.relative_to(base)): stat.S_IMODE(p.stat().st_mode) for p in base.rglob("*")}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_keys_are_for_their_owner_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        pool(tmp_path / "p", NOW)
    finally:
        os.umask(old)
    found = modes(tmp_path / "p")
    assert {m for n, m in found.items() if n.endswith(".key")} == {0o600}
    assert {m for n, m in found.items() if n.endswith(".crt")} == {0o644}
    assert {m for n, m in found.items() if "." not in n} == {0o700}
    assert sorted(found) == sorted(
        [
            *("authority", "authority/ca.crt", "authority/ca.key"),
            *(
                f"{folder}{file}"
                for folder in ("node-n1", "client-ann", "client-bob", "client-root")
                for file in ("", "/ca.crt", "/tls.crt", "/tls.key")
            ),
        ]
    )


def test_nothing_is_made_twice(tmp_path: Path) -> None:
    base = pool(tmp_path / "p", NOW)
    before = tree(base)
    assert authority.init(base, NOW + DAY) is False
    assert not authority.issue(base, Kind.CLIENT, "ann", hosts=[], now=NOW + DAY)
    pool(base, NOW + DAY)
    assert tree(base) == before


def test_what_is_there_needs_no_key_to_be_left_alone(tmp_path: Path) -> None:
    base = pool(tmp_path / "p", NOW)
    (base / "authority" / "ca.key").unlink()
    assert not authority.issue(base, Kind.CLIENT, "ann", hosts=[], now=NOW)
    with pytest.raises(CertificateError, match="cannot read"):
        authority.issue(base, Kind.CLIENT, "new", hosts=[], now=NOW)


def test_of_two_that_make_it_at_once_one_does(tmp_path: Path) -> None:
    made: list[bool] = []
    barrier = threading.Barrier(4)

    def one() -> None:
        barrier.wait()
        made.append(authority.init(tmp_path / "p", NOW))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False, False, False, True]
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == ["authority"]
    authority.issue(tmp_path / "p", Kind.CLIENT, "ann", hosts=[], now=NOW)


def test_what_a_certificate_is_good_for(tmp_path: Path) -> None:
    base = pool(tmp_path / "p", NOW)
    ca, n1, *clients = authority.found(base)
    assert [c.name for c in clients] == ["ann", "bob", "root"]
    assert (n1.name, n1.names) == ("n1", ("localhost", "127.0.0.1"))
    assert ca.x509.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    for kind, certificate in ((Kind.NODE, n1), (Kind.CLIENT, clients[0])):
        assert certificate.serves(kind)
        usage = certificate.x509.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        assert len(usage.value) == 1
        basic = certificate.x509.extensions.get_extension_for_class(x509.BasicConstraints)
        assert not basic.value.ca
    assert not n1.serves(Kind.CLIENT)
    assert not clients[0].serves(Kind.NODE)
    assert n1.x509.not_valid_before_utc == NOW - dt.timedelta(hours=1)
    assert n1.ends == NOW + 365 * DAY
    assert ca.ends == NOW + 3650 * DAY


def test_a_certificate_never_outlives_its_authority(tmp_path: Path) -> None:
    base = pool(tmp_path / "p", NOW)
    late = NOW + 3600 * DAY
    authority.issue(base, Kind.CLIENT, "late", hosts=[], now=late)
    assert read(base / "client-late" / "tls.crt", Kind.CLIENT).ends == NOW + 3650 * DAY
    with pytest.raises(CertificateError, match="ran out"):
        authority.issue(base, Kind.CLIENT, "later", hosts=[], now=NOW + 3650 * DAY)


def test_renewal_keeps_key_and_names(tmp_path: Path) -> None:
    base = pool(tmp_path / "p", NOW)
    before = tree(base)
    old = read(base / "node-n1" / "tls.crt", Kind.NODE)
    later = NOW + 400 * DAY
    with pytest.raises(CertificateError, match=r"ran out on 2027-11-26"):
        node(base, when=later)
    fresh = authority.renew(base, old, later)
    assert fresh.names == old.names
    assert fresh.ends == later + 365 * DAY
    assert fresh.x509.serial_number != old.x509.serial_number
    assert node(base, when=later).warning == ""
    changed = {n for n, data in tree(base).items() if before.get(n) != data}
    assert changed == {"node-n1/tls.crt"}
    assert modes(base)["node-n1/tls.crt"] == 0o644


def test_renewal_by_another_authority_is_refused(tmp_path: Path) -> None:
    mine, other = pool(tmp_path / "a", NOW), pool(tmp_path / "b", NOW)
    with pytest.raises(CertificateError, match="another authority"):
        authority.renew(mine, read(other / "client-ann" / "tls.crt", Kind.CLIENT), NOW)


@pytest.mark.parametrize(
    ("days", "after", "said"),
    [(365, 334, False), (365, 336, True), (9, 5, False), (9, 7, True)],
)
def test_the_end_is_said_in_time(tmp_path: Path, days: int, after: int, said: bool) -> None:
    base = pool(tmp_path / "p", NOW, days)
    warning = client(base, when=NOW + after * DAY).warning
    assert ("runs out on" in warning) is said
    assert ("--renew" in warning) is said


def test_a_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    base = pool(tmp_path / "p", NOW)
    (base / "client-ann" / "tls.key").chmod(0o640)
    with pytest.raises(CertificateError, match="mode 640") as refused:
        client(base, when=NOW)
    assert "chmod 600" in refused.value.hint
    (base / "authority" / "ca.key").chmod(0o604)
    with pytest.raises(CertificateError, match="may be read by others"):
        authority.issue(base, Kind.CLIENT, "new", hosts=[], now=NOW)


def test_a_folder_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "p"
    base.mkdir()
    base.chmod(0o777)
    with pytest.raises(CertificateError, match="writable by everybody"):
        authority.init(base, NOW)


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    a, b = pool(tmp_path / "a", NOW), pool(tmp_path / "b", NOW)
    (a / "client-ann" / "tls.key").write_bytes((a / "client-bob" / "tls.key").read_bytes())
    with pytest.raises(CertificateError, match="not the key"):
        client(a, when=NOW)
    (a / "client-bob" / "ca.crt").write_bytes((b / "client-bob" / "ca.crt").read_bytes())
    with pytest.raises(CertificateError, match="not of the authority"):
        client(a, "bob", when=NOW)
    with pytest.raises(CertificateError, match="not good for a node"):
        load(b / "client-ann", Kind.NODE, NOW)
    with pytest.raises(CertificateError, match="cannot read"):
        client(b, "nobody", when=NOW)
    with pytest.raises(CertificateError, match="holds from") as early:
        client(b, "ann", when=NOW - DAY)
    assert "clock" in early.value.hint
    (b / "client-ann" / "tls.crt").write_text("-----BEGIN CERTIFICATE-----\nxx\n")
    with pytest.raises(CertificateError, match="is no certificate"):
        client(b, when=NOW)


def test_an_rsa_key_is_refused_for_it_would_let_tls_1_2_in(tmp_path: Path) -> None:
    base = pool(tmp_path / "p", NOW)
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "r")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 5)
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
        .sign(key, hashes.SHA256())
    )
    (base / "client-ann" / "tls.crt").write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
    )
    with pytest.raises(CertificateError, match="elliptic-curve"):
        client(base, when=NOW)


@pytest.mark.parametrize("name", ["", "-a", "a/b", "..", "a b", "a" * 64, "ä", "a\n"])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    authority.init(tmp_path, NOW)
    with pytest.raises(ConfigError, match="no name"):
        authority.issue(tmp_path, Kind.CLIENT, name, hosts=[], now=NOW)
    assert [p.name for p in tmp_path.iterdir()] == ["authority"]


def test_nobody_gets_the_name_of_who_calls_in_plaintext(tmp_path: Path) -> None:
    authority.init(tmp_path, NOW)
    with pytest.raises(ConfigError, match="no name"):
        authority.issue(tmp_path, Kind.CLIENT, LOOPBACK, hosts=[], now=NOW)


@pytest.mark.parametrize("host", ["", "a b", "1.2.3", "a..b", "a/b", "x" * 64, "host:1", "a\n"])
def test_what_is_no_host_is_refused(tmp_path: Path, host: str) -> None:
    authority.init(tmp_path, NOW)
    with pytest.raises(ConfigError, match="no host"):
        authority.issue(tmp_path, Kind.NODE, "n", hosts=[host], now=NOW)


@pytest.mark.parametrize("days", [0, -1, 3651])
def test_days_out_of_range_are_refused(tmp_path: Path, days: int) -> None:
    authority.init(tmp_path, NOW)
    with pytest.raises(ConfigError, match="out of range"):
        authority.issue(tmp_path, Kind.NODE, "n", hosts=["h"], now=NOW, days=days)


def test_there_is_nothing_to_sign_with_without_an_authority(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="no authority"):
        authority.issue(tmp_path, Kind.NODE, "n", hosts=["h"], now=NOW)


LABEL = st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?\Z")
HOSTS = st.one_of(
    st.lists(LABEL, min_size=1, max_size=4)
    .map(".".join)
    .filter(lambda h: not all(c in "0123456789." for c in h)),
    st.ip_addresses().map(str),
)


@pytest.mark.slow
@given(st.lists(HOSTS, max_size=5, unique=True))
def test_names_come_back_as_they_were_given(hosts: list[str]) -> None:
    found = x509.SubjectAlternativeName([authority._host(h) for h in hosts])
    back = {*found.get_values_for_type(x509.DNSName)}
    back |= {str(a) for a in found.get_values_for_type(x509.IPAddress)}
    assert back == {str(ipaddress.ip_address(h)) if ":" in h else h for h in hosts}


def test_purposes_are_the_usual_ones(tmp_path: Path) -> None:
    base = pool(tmp_path / "p", NOW)
    usage = node(base, when=NOW).certificate.x509.extensions.get_extension_for_class(
        x509.ExtendedKeyUsage
    )
    assert list(usage.value) == [ExtendedKeyUsageOID.SERVER_AUTH]
