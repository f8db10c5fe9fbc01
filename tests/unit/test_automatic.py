# SPDX-License-Identifier: Apache-2.0
"""`harp run --mem auto --share auto`: what is taken, and what is said of it."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from harp.api.v1 import control_pb2 as pb
from harp.cli.automatic import Asked, estimated, limits
from harp.cli.main import cli
from harp.cli.output import AUTO_PERCENT, AUTO_SIZE, Auto
from harp.estimator.job import Need

GIB, MIB = 1 << 30, 1 << 20
UNKNOWN = Need("gpu_mem_bytes", None, 80.0 * GIB, 0.98, False, "request", 0, "the device: no run")


def need(target: str, bound: float, level: str = "signature") -> Need:
    return Need(target, bound / 2, bound, 0.98, known=True, level=level, runs=3, reason="because")


@pytest.mark.parametrize(
    ("text", "size", "percent"),
    [
        ("auto", Auto(), Auto()),
        ("none", 0, 0),
        ("auto:none", Auto(0), Auto(0)),
        ("30", 30, 300_000),
        ("auto:30", Auto(30), Auto(300_000)),
    ],
)
def test_a_limit_is_a_value_or_auto(text: str, size: int | Auto, percent: int | Auto) -> None:
    assert AUTO_SIZE.convert(text, None, None) == size
    assert AUTO_PERCENT.convert(text, None, None) == percent


@pytest.mark.parametrize("text", ["auto:", "auto:8GB", "automatic", "auto:auto"])
def test_others_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        AUTO_SIZE.convert(text, None, None)


@pytest.mark.parametrize(
    ("found", "auto", "limit", "words"),
    [
        (need("gpu_mem_bytes", 100 * MIB + 1), Auto(), 102 * MIB, "memory 102MiB: because"),
        (need("gpu_mem_bytes", 1), Auto(), 2 * MIB, "memory 2MiB: because"),
        (
            need("gpu_mem_bytes", 3 * GIB),
            Auto(2 * GIB),
            2 * GIB,
            "memory 2GiB: because; 2GiB at most, as asked for",
        ),
        (
            need("gpu_mem_bytes", 3 * GIB, "cluster"),
            Auto(),
            0,
            "memory without a limit: because",
        ),
        (need("gpu_mem_bytes", 3 * GIB, "cluster"), Auto(4 * GIB), 3 * GIB, "memory 3GiB: because"),
        (UNKNOWN, Auto(), 0, "memory without a limit: the device: no run"),
        (UNKNOWN, Auto(12 * GIB), 12 * GIB, "memory 12GiB, as asked for: the device: no run"),
        (need("share_ratio", 0.201), Auto(), 210_000, "share 21%: because"),
        (need("share_ratio", 0.0), Auto(), 10_000, "share 1%: because"),
        (need("share_ratio", 1.7), Auto(), 1_000_000, "share 100%: because"),
    ],
)
def test_a_limit_is_the_bound_rounded_up(found: Need, auto: Auto, limit: int, words: str) -> None:
    assert limits(found, auto) == (limit, words)


class FakeClient:
    """A harpd that knows what a job needs."""

    def __init__(self) -> None:
        self.asked: list[pb.EstimateRequest] = []

    def estimate(self, request: pb.EstimateRequest) -> pb.EstimateReply:
        self.asked.append(request)
        return pb.EstimateReply(
            needs=[
                pb.Need(
                    target="gpu_mem_bytes", bound=3 * GIB, known=True, level="owner", reason="m"
                ),
                pb.Need(
                    target="share_ratio", bound=0.2, known=True, level="shape", reason="s\n\x1b"
                ),
            ]
        )


def test_harpd_is_asked_for_what_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    client, request = FakeClient(), pb.CreateTenantRequest(command=["a", "b"], gpu="1")
    estimated(client, Asked(Auto(4 * GIB), 300_000), request)  # type: ignore[arg-type]
    assert client.asked == [
        pb.EstimateRequest(command=["a", "b"], gpu="1", mem_bytes=4 * GIB, share_ppm=300_000)
    ]
    assert (request.mem_limit_bytes, request.share_ppm) == (3 * GIB, 300_000)
    # What it would have asked for is its request, not what it was given: that would be learned.
    assert request.estimated
    assert (request.asked_mem_bytes, request.asked_share_ppm) == (4 * GIB, 300_000)
    assert capsys.readouterr().err == "harp: memory 3GiB: m\n"
    estimated(client, Asked(GIB, Auto()), request)  # type: ignore[arg-type]
    assert (request.mem_limit_bytes, request.share_ppm) == (GIB, 200_000)
    assert capsys.readouterr().err == "harp: share 20%: s??\n"


def test_a_lease_has_no_estimate() -> None:
    for option in ("--mem", "--share"):
        done = CliRunner().invoke(cli, ["run", "--remote", "h:1", option, "auto", "--", "true"])
        assert done.exit_code == 2
        assert f"{option} auto is for GPUs of this host" in done.output
