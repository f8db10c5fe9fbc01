# SPDX-License-Identifier: Apache-2.0
"""A command's signature: the same job again has it again, and it tells nobody's secrets."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from datetime import datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harp.estimator.job import Job
from harp.estimator.masks import number_of, word
from harp.estimator.signature import (
    framework_of,
    job_of,
    normal,
    program,
    shape,
    user_digest,
)

#: as a process's argv comes from /proc: any bytes but 0
RAW = st.binary(max_size=40).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"")))
PIECES = st.sampled_from(
    [
        *("python3.11", "sh", "-c", "-lc", "--", "-", "--lr", "--seed=3", "--token", "a=b=c=d=e"),
        *("KEY=v", "KEY=", "=", "x=", "--x=", "-n", "-1e-4", "1e99", "1e-99", "8GiB", "70b"),
        *("/", "//", "a/", "*", "*-*", "2026-01-31", "20260131_1200", "'", "a'b", 'say "x y"'),
        *("a && b", "&&", "x;y", "$(id)", "tmpab12cd34", "1.2.3.4:80", "localhost:80", "--a b"),
        *("deadbeef01", "1700000001", "http://u:p@h/x?y=1#z", "\udcff", "x" * 300, "a: b"),
        *("api_key: hunter2", "-p x", "ab1cd2ef3gh4ij5kl6", "9" * 15, "999999999999999e10"),
    ]
)
ARGV = st.lists(st.one_of(RAW, PIECES, st.text(max_size=30)), max_size=12)
#: what a user would call a secret, and nobody a word that is in every command
SECRET = st.text(st.characters(codec="ascii", min_codepoint=33, max_codepoint=126), min_size=6)


def strings(job: Job) -> list[str]:
    """Every text of a job, wherever it is."""
    found: list[str] = []
    queue: list[object] = list(dataclasses.astuple(job))
    while queue:
        one = queue.pop()
        if isinstance(one, tuple):
            queue.extend(one)
        else:
            found.append(str(one))
    return found


@given(ARGV)
@example(["sh", "-c", "echo 'never ends"])
@example(["a=" * 2000])
@example(["x", "-" + "a" * 100_000])
def test_any_command_has_a_job(argv: list[str]) -> None:
    job = job_of(argv)
    assert bool(job.program) == bool(job.shape) == any(argv)
    for text in strings(job):
        text.encode()  # it can be written down
    for name, value in job.numbers:
        assert len(name) <= 64
        assert abs(value) < float("inf")


@given(ARGV)
def test_a_normal_form_is_its_own(argv: list[str]) -> None:
    once = normal(argv)
    assert normal(once) == once
    assert program(once) == program(argv)
    assert shape(once) == shape(argv)


@given(ARGV, st.integers(0, 2**31), st.integers(0, 2**31))
def test_seeds_ports_and_names_of_runs_are_masked(argv: list[str], one: int, other: int) -> None:
    for option in ("--seed", "--master_port", "--run-id", "--job-name", "--localRank", "--out"):
        jobs = [
            job_of(["python", "t.py", option, str(number), *argv]) for number in (one, other)
        ] + [job_of(["python", "t.py", f"{option}={number}", "end"]) for number in (one, other)]
        assert jobs[0] == jobs[1], option
        assert jobs[2] == jobs[3], option


FOLDERS = st.lists(st.sampled_from(["home", "a b", "x-1", "2026-01-02", "tmpq1w2e3r4"]), min_size=1)


@given(FOLDERS, FOLDERS)
def test_a_path_counts_by_its_last_part(one: list[str], other: list[str]) -> None:
    first, second = (
        job_of(
            [f"{'/'.join(at)}/python", f"./{'/'.join(at)}/t.py", "--data", f"/{'/'.join(at)}/d/"]
        )
        for at in (one, other)
    )
    assert first == second
    assert job_of(["python", "/x/u.py"]) != job_of(["python", "/x/t.py"])


@given(st.datetimes(), st.datetimes())
def test_dates_are_masked(one: datetime, other: datetime) -> None:
    for form in ("run_%Y-%m-%d", "%Y%m%d", "log.%Y%m%d-%H%M%S", "%Y-%m-%dT%H:%M:%S", "%Y_%m_%d"):
        texts = [
            f"{when.year % 120 + 1900}{when.strftime(form.replace('%Y', '|')).partition('|')[2]}"
            for when in (one, other)
        ]
        heads = [form.partition("%Y")[0] + text for text in texts]
        assert job_of(["t", heads[0]]) == job_of(["t", heads[1]]), heads


@given(st.integers(1, 100_000), st.integers(1, 100_000), st.sampled_from(["--batch-size", "-b"]))
def test_batch_sizes_are_kept_and_shapes_leave_them_out(one: int, other: int, option: str) -> None:
    jobs = [job_of(["python", "t.py", option, str(size), "--fp16"]) for size in (one, other)]
    assert (jobs[0].program == jobs[1].program) == (one == other)
    assert jobs[0].shape == jobs[1].shape
    assert jobs[0].numbers == ((option.strip("-").replace("-", "_"), float(one)),)


@given(st.lists(st.sampled_from(["a", "b", "--fp16", "resnet50", "bf16"]), min_size=2, max_size=5))
def test_the_order_of_words_matters(words: list[str]) -> None:
    for other in itertools.permutations(words):
        assert (program(["python", *other]) == program(["python", *words])) == (
            list(other) == words
        )


#: {form of a secret in a command}
FORMS = (
    ["--token", "{}"],
    ["--hf_token={}"],
    ["--apiKey", "{}"],
    ["-e", "AWS_SECRET_ACCESS_KEY={}"],
    ["WANDB_KEY={}"],
    ["ANYTHING={}"],
    ["db.password={}"],
    ["--set", "auth.token={}"],
    ["--header", "Authorization: Bearer {}"],
    ["--config", 'password: "{}"'],
    ["https://me:{}@host/data"],
)


@given(SECRET, SECRET, st.sampled_from(FORMS))
@example("123456", "654321", ["--token", "{}"])
@example("--looks-like", "an-option", ["--token", "{}"])
def test_a_secret_is_nowhere_and_changes_nothing(one: str, other: str, form: list[str]) -> None:
    if '"' in form[-1] or "@" in form[-1] or ":" in form[-1]:
        one, other = (
            text.translate(dict.fromkeys(map(ord, "\"'/@ :?#"), "x")) for text in (one, other)
        )
    jobs = [
        job_of(["python", "t.py", *(word.format(secret) for word in form), "--batch", "8"])
        for secret in (one, other)
    ]
    assert jobs[0] == jobs[1]
    assert not any(one in text for text in strings(jobs[0]))
    assert jobs[0].numbers[-1][1] == 8.0


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "ghp_*"),
        ("meta-llama/Llama-2-70b-chat-hf", "Llama-2-70b-chat-hf"),
        ("stable-diffusion-v1-5", "stable-diffusion-v1-5"),
        ("wav2vec2-large-xlsr-53", "wav2vec2-large-xlsr-53"),
        ("0f8fad5b-d9cb-469f-a165-70867728950e", "*"),
        ("/tmp/tmp.Xy12abQQ/model.pt", "model.pt"),
        ("model-3f2a9c1d8b.ckpt", "model-*.ckpt"),
        ("s3://bucket/a/imagenet?sig=abc", "imagenet"),
        ("10.1.2.3:29500", "*"),
        ("node-7.cluster.local:29500", "*"),
        ("resnet50", "resnet50"),
        ("bf16", "bf16"),
    ],
)
def test_what_stays_of_a_word(text: str, kept: str) -> None:
    assert word(text) == kept


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("32", 32.0),
        ("-1.5e-3", -0.0015),
        ("8GiB", 8.0 * 2**30),
        ("512M", 512e6),
        ("70b", None),
        ("1e999", None),
        ("nan", None),
        ("20260131", None),
        ("1767225601", None),
        ("1000000000000000000000", None),
        ("٣", None),
    ],
)
def test_what_a_number_is(text: str, value: float | None) -> None:
    assert number_of(text) == value


def test_a_shells_script_is_the_command_it_runs() -> None:
    plain = normal(["python", "/a/train.py", "--seed", "1", "--bs", "8"])
    script = normal(["/bin/bash", "-ec", "python '/b/c d/train.py' --seed=2 --bs 8"])
    assert script[2:] == plain
    assert normal(["bash", "/x/script.sh", "-c", "a b"])[-1] == "a_b"


def test_frameworks_are_guessed_or_told() -> None:
    assert framework_of(["python", "-m", "torch.distributed.run"]) == "pytorch"
    assert framework_of(["python", "fathom.py", "--jaxon"]) == ""
    assert job_of(["torchrun", "t.py"]).framework == "pytorch"
    assert job_of(["torchrun", "t.py"], framework="jax").framework == "jax"
    assert job_of(["sh", "-c", "import tinygrad"]).framework == "tinygrad"


def test_users_are_told_apart_by_one_machine_alone() -> None:
    assert user_digest(1000, b"a") == user_digest(1000, b"a") != user_digest(1001, b"a")
    assert user_digest(1000, b"a") != user_digest(1000, b"b")
    assert "1000" not in user_digest(1000, b"a")


@pytest.mark.parametrize(
    "text", ["a" * 131_072, "a." * 65_536, "0a" * 65_536, "a=" * 65_536, "tmp" * 40_000]
)
def test_no_command_holds_harpd_up(text: str) -> None:
    began = time.process_time()
    job_of(["sh", "-c", text])
    job_of([text, "--x", text, text])
    job_of([text[:256]] * 512)
    spent_s = time.process_time() - began
    print(f"{spent_s * 1000:.1f} ms")
    assert spent_s < 1.0
