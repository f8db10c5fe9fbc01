# SPDX-License-Identifier: Apache-2.0
"""The link's transport over TLS 1.3: stock clients and servers, and everything that is refused."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from link_world import (
    SESSION,
    TOKEN,
    Authority,
    Echo,
    echo_call,
    echo_program,
    echo_server,
    own_table,
    stock_server,
)

from harp.api.v1 import session_pb2 as pb
from harp.api.v1 import session_pb2_grpc as rpc

MIB = 1 << 20


@dataclass(frozen=True)
class Papers:
    """Who is who in these tests; each is certificate and key."""

    ca: Path
    other_ca: Path
    server: tuple[Path, Path]
    client: tuple[Path, Path]
    expired: tuple[Path, Path]
    elsewhere: tuple[Path, Path]
    foreign: tuple[Path, Path]


@pytest.fixture(scope="module")
def papers(native_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Papers:
    """Made once."""
    echo_program(native_dir)
    folder = tmp_path_factory.mktemp("ca")
    ours, other = Authority(folder), Authority(folder, "other")
    return Papers(
        ca=ours.pem,
        other_ca=other.pem,
        server=ours.issue("server"),
        client=ours.issue("client", "DNS:client"),
        expired=ours.issue("expired", days=-1),
        elsewhere=ours.issue("elsewhere", "DNS:gpu.example"),
        foreign=other.issue("foreign"),
    )


def own(papers: tuple[Path, Path]) -> list[str]:
    """Options: certificate and key."""
    return ["--cert", str(papers[0]), "--key", str(papers[1])]


@contextlib.contextmanager
def server(
    native: Path, folder: Path, papers: Papers, certificate: str = "server", *, mutual: bool = False
) -> Iterator[Echo]:
    """Our server with one of the certificates; mutual: clients need one too, and no token."""
    options = own(getattr(papers, certificate))
    if mutual:
        options += ["--ca", str(papers.ca), "--no-token"]
    with echo_server(native, folder, *options) as echo:
        yield echo


def stock_call(port: int, table: str, credentials: grpc.ChannelCredentials, body: bytes) -> None:
    """grpcio's client, by name."""
    metadata = [
        ("authorization", f"Bearer {TOKEN}"),
        ("harp-session", SESSION),
        ("harp-table", table),
    ]
    options = [("grpc.default_authority", "localhost")]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        sent = [pb.Frame(seq=seq, op=70, body=body) for seq in range(1, 21)]
        call = rpc.GpuSessionStub(channel).Session(iter(sent), metadata=metadata, timeout=30)
        assert [(f.ack, f.body) for f in call] == [(f.seq, f.body) for f in sent]


def test_stock_client_with_a_token(native_dir: Path, tmp_path: Path, papers: Papers) -> None:
    table = own_table(native_dir, tmp_path)
    with server(native_dir, tmp_path, papers) as echo:
        trust = grpc.ssl_channel_credentials(papers.ca.read_bytes())
        for body in (b"", b"abc", bytes(MIB)):
            stock_call(echo.port, table, trust, body)


def test_stock_client_with_a_certificate(native_dir: Path, tmp_path: Path, papers: Papers) -> None:
    table = own_table(native_dir, tmp_path)
    with server(native_dir, tmp_path, papers, mutual=True) as echo:
        certificate, key = (path.read_bytes() for path in papers.client)
        trust = papers.ca.read_bytes()
        stock_call(
            echo.port, table, grpc.ssl_channel_credentials(trust, key, certificate), bytes(MIB)
        )
        with pytest.raises(grpc.RpcError) as caught:
            stock_call(echo.port, table, grpc.ssl_channel_credentials(trust), b"")
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        echo.waits_for("no certificate")


def test_our_client_on_a_stock_server(native_dir: Path, papers: Papers) -> None:
    certificate, key = (path.read_bytes() for path in papers.server)
    for mutual in (False, True):
        credentials = grpc.ssl_server_credentials(
            [(key, certificate)], papers.ca.read_bytes() if mutual else None, mutual
        )
        with stock_server(credentials) as port:
            options = ["--ca", str(papers.ca), *(own(papers.client) if mutual else [])]
            for more in (["--frames", "2000"], ["--frames", "30", "--bytes", str(MIB)]):
                answer = echo_call(native_dir, f"localhost:{port}", *options, *more)
                assert (answer["status"], answer["wrong"]) == ("OK", 0), answer


@pytest.mark.parametrize(
    "options",
    [
        ["--frames", "20000", "--bytes", "64"],
        ["--frames", "200", "--bytes", str(MIB)],
        ["--frames", "50", "--bytes", "50000", "--streams", "8", "--bulk"],
    ],
)
def test_our_client_on_our_server(
    native_dir: Path, tmp_path: Path, papers: Papers, options: list[str]
) -> None:
    with server(native_dir, tmp_path, papers, mutual=True) as echo:
        answer = echo_call(
            native_dir,
            f"127.0.0.1:{echo.port}",
            *["--ca", str(papers.ca), *own(papers.client), *options],
        )
    assert (answer["status"], answer["wrong"]) == ("OK", 0), answer


@pytest.mark.parametrize(
    "case",
    [
        ("foreign", "localhost", ["server's certificate is not signed by", "ca.pem", "remedy"]),
        ("expired", "localhost", ["server's certificate has expired", "remedy"]),
        ("elsewhere", "localhost", ["is not for localhost", "remedy"]),
        ("elsewhere", "127.0.0.1", ["is not for 127.0.0.1", "remedy"]),
        ("elsewhere", "gpu.example", None),
        ("server", "127.0.0.1", None),
        ("server", "example", ["is not for example", "remedy"]),
    ],
)
def test_certificates_of_servers(
    native_dir: Path,
    tmp_path: Path,
    papers: Papers,
    case: tuple[str, str, list[str] | None],
) -> None:
    certificate, name, says = case
    with server(native_dir, tmp_path, papers, certificate) as echo:
        options = ["--ca", str(papers.ca), "--name", name]
        answer = echo_call(native_dir, f"127.0.0.1:{echo.port}", *options)
        if says is not None:
            echo.waits_for("connection: ")
    if says is None:
        assert answer["status"] == "OK", answer
        return
    assert (answer["status"], answer["back"]) == ("UNAVAILABLE", 0)
    for word in says:
        assert word in answer["text"]


@pytest.mark.parametrize(
    "case",
    [
        (None, ["asks for a certificate", "remedy"], ["no certificate"]),
        ("foreign", ["does not trust the CA", "remedy"], ["is not signed by", "remedy"]),
        ("expired", ["certificate has expired", "remedy"], ["client's certificate has expired"]),
    ],
)
def test_certificates_of_clients(
    native_dir: Path,
    tmp_path: Path,
    papers: Papers,
    case: tuple[str | None, list[str], list[str]],
) -> None:
    certificate, client_says, server_says = case
    with server(native_dir, tmp_path, papers, mutual=True) as echo:
        options = ["--ca", str(papers.ca)]
        if certificate is not None:
            options += own(getattr(papers, certificate))
        answer = echo_call(native_dir, f"127.0.0.1:{echo.port}", *options)
        for word in server_says:
            echo.waits_for(word)
    assert (answer["status"], answer["back"]) == ("UNAVAILABLE", 0)
    for word in client_says:
        assert word in answer["text"]


def plain_tls(port: int, papers: Papers, *, protocols: list[str], version: ssl.TLSVersion) -> str:
    """What a TLS client of Python's agrees on; raises as it does."""
    context = ssl.create_default_context(cafile=str(papers.ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = version
    if protocols:
        context.set_alpn_protocols(protocols)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as tls,
    ):
        tls.settimeout(10)
        if not protocols:
            return repr(tls.recv(1))  # a server that wants h2 hangs up
        return f"{tls.version()} {tls.selected_alpn_protocol()}"


def test_versions_and_protocols(native_dir: Path, tmp_path: Path, papers: Papers) -> None:
    new, old = ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2
    with server(native_dir, tmp_path, papers) as echo:
        both = plain_tls(echo.port, papers, protocols=["http/1.1", "h2"], version=new)
        assert both == "TLSv1.3 h2"
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
            plain_tls(echo.port, papers, protocols=["h2"], version=old)
        echo.waits_for("does not speak TLS 1.3")
        with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
            plain_tls(echo.port, papers, protocols=["http/1.1"], version=new)
        with contextlib.suppress(OSError):
            assert plain_tls(echo.port, papers, protocols=[], version=new) == "b''"
        echo.waits_for("no HTTP/2 (ALPN h2)")
        answer = echo_call(native_dir, f"127.0.0.1:{echo.port}", "--ca", str(papers.ca))
        assert answer["status"] == "OK", answer


def test_a_server_of_tls_1_2_is_refused(native_dir: Path, papers: Papers) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(*papers.server)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            peer, _ = listener.accept()
            with peer, pytest.raises((ssl.SSLError, OSError)):
                context.wrap_socket(peer, server_side=True).recv(1)

        thread = threading.Thread(target=speak)
        thread.start()
        answer = echo_call(
            native_dir, f"127.0.0.1:{listener.getsockname()[1]}", "--ca", str(papers.ca)
        )
        thread.join()
    assert answer["status"] == "UNAVAILABLE"
    assert "does not speak TLS 1.3" in answer["text"]


def test_plain_and_tls_do_not_meet(native_dir: Path, tmp_path: Path, papers: Papers) -> None:
    with server(native_dir, tmp_path, papers) as echo:
        answer = echo_call(native_dir, f"127.0.0.1:{echo.port}")
        assert answer["status"] == "UNAVAILABLE"
        echo.waits_for("does not speak TLS;")
    with echo_server(native_dir, tmp_path) as echo:
        answer = echo_call(native_dir, f"127.0.0.1:{echo.port}", "--ca", str(papers.ca))
        assert answer["status"] == "UNAVAILABLE"
        assert answer["text"] != ""
        echo.waits_for("connection: ")


def test_an_end_that_came_with_bytes_is_seen(
    native_dir: Path, tmp_path: Path, papers: Papers
) -> None:
    """TLS's own end in one segment with data, from a client that then keeps its socket open."""
    context = ssl.create_default_context(cafile=str(papers.ca))
    context.set_alpn_protocols(["h2"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with (
        server(native_dir, tmp_path, papers) as echo,
        socket.create_connection(("127.0.0.1", echo.port), timeout=5) as raw,
    ):
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                raw.sendall(outgoing.read())
                incoming.write(raw.recv(1 << 16))
        raw.sendall(outgoing.read())
        tls.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.unwrap()
        raw.sendall(outgoing.read())
        while raw.recv(1 << 16):  # a connection without calls is closed after 10 s anyway
            pass


def test_a_bad_token_within_tls(native_dir: Path, tmp_path: Path, papers: Papers) -> None:
    with server(native_dir, tmp_path, papers) as echo:
        address = f"127.0.0.1:{echo.port}"
        answer = echo_call(native_dir, address, "--ca", str(papers.ca), token="wrong")
    assert answer["status"] == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--cert", "{ca}"], "no key"),
        (["--cert", "{nothing}", "--key", "{ca}"], "No such file"),
        (["--cert", "{ca}", "--key", "{ca}"], "key"),
        (["--cert", "{server}", "--key", "{other}"], "key"),
        (["--ca", "{server}.missing"], "certificate"),
    ],
)
def test_files_that_cannot_be_used(
    native_dir: Path, tmp_path: Path, papers: Papers, options: list[str], says: str
) -> None:
    files = {
        "ca": papers.ca,
        "server": papers.server[0],
        "other": papers.foreign[1],
        "nothing": tmp_path / "nothing",
    }
    given = [option.format(**files) for option in options]
    with pytest.raises(AssertionError) as caught, echo_server(native_dir, tmp_path, *given):
        pass
    assert "harp-link-echo: " in str(caught.value)
    assert says in str(caught.value)
