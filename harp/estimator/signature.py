# SPDX-License-Identifier: Apache-2.0
"""A command as history knows it: the same job again has the same signature. Pure.

argv ── a shell's -c taken apart ── words, masked ── program: digest of all of them
                                                 └── shape: the same, numbers left out
What differs from run to run is masked (seeds, dates, folders, ports, ids, names of runs), what a
job needs depends on stays (batch size, model, precision, world size). argv is not kept: a Job has
two digests, and the names and values of its numbers. A secret is masked before anything is made of
it: it changes no digest. Words that look like none and are one all the same (a password of letters,
as an operand) are in the digests.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harp.estimator.job import Job
from harp.estimator.masks import MASK, NUMBER, is_passing, is_secret, number_of, word

__all__ = ["framework_of", "job_of", "normal", "program", "shape", "user_digest"]

_WORDS_MAX, _NUMBERS_MAX, _NAME_CHARS = 512, 64, 64
_DIGEST_CHARS = 32
_NESTED = 4  #: a=b=c
_SHELLS = {"sh", "bash", "dash", "zsh", "ksh", "ash"}
_SHELL_OPTION = re.compile(r"-[A-Za-z]+")
_OPTION = re.compile(r"(-{1,2}|\+{1,2}|~)([A-Za-z][^=]*)")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)=")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_VERSIONED = re.compile(r"(python|pypy|node|ruby|perl|lua)[0-9.]+")
#: {word of a command: framework}
_FRAMEWORKS = {
    **dict.fromkeys(("torch", "torchrun", "pytorch", "lightning", "deepspeed"), "pytorch"),
    **dict.fromkeys(("accelerate", "megatron", "fairseq", "transformers"), "pytorch"),
    **dict.fromkeys(("tensorflow", "keras", "tf"), "tensorflow"),
    **dict.fromkeys(("jax", "flax", "pax"), "jax"),
    **dict.fromkeys(("tritonserver", "trtexec", "tensorrt"), "tensorrt"),
    **{name: name for name in ("tinygrad", "mxnet", "paddle", "vllm", "sglang", "ollama")},
    **{name: name for name in ("onnxruntime", "numba", "cupy", "mindspore", "triton")},
}


@dataclass(frozen=True, slots=True)
class _Part:
    """A word of the normal form."""

    text: str
    shape: str  #: the same without its number
    name: str = ""  #: of the number
    value: float | None = None


def job_of(
    argv: Sequence[str],
    *,
    image: str = "",
    user: str = "",
    framework: str = "",
    owner: str = "",
    gpu: str = "",
    asked_mem_bytes: int = 0,
    asked_share_ratio: float = 0.0,
    device_mem_bytes: int = 0,
    labels: Sequence[tuple[str, str]] = (),
) -> Job:
    """What is known of a job before it runs.

    Args:
        argv: its command; empty: not known. It may have lone surrogates (os.fsdecode).
        image: of its container.
        user: user_digest().
        framework: "": guessed from the command.
        owner: see Job; so the rest.
        gpu: name of its device.
        asked_mem_bytes: GPU memory its user asks for.
        asked_share_ratio: 0..1.
        device_mem_bytes: of its device.
        labels: of those that history is told to keep.
    """
    parts = list(_parts(argv))
    numbers = [(part.name, part.value) for part in parts if part.value is not None]
    return Job(
        program=_digest([part.text for part in parts]),
        shape=_digest([part.shape for part in parts]),
        numbers=tuple((name, value) for name, value in numbers[:_NUMBERS_MAX]),
        user=user,
        image=image,
        framework=framework or framework_of([part.text for part in parts]),
        owner=owner,
        gpu=gpu,
        asked_mem_bytes=asked_mem_bytes,
        asked_share_ratio=asked_share_ratio,
        device_mem_bytes=device_mem_bytes,
        labels=tuple(sorted(labels)),
    )


def normal(argv: Sequence[str]) -> tuple[str, ...]:
    """The words that a job's digests are made of; of a normal form, the same.

    >>> normal(["/usr/bin/python3.11", "/data/train.py", "--seed=7", "--batch-size=32"])
    ('python', 'train.py', '--seed', '*', '--batch-size', '32')
    """
    return tuple(part.text for part in _parts(argv))


def program(argv: Sequence[str]) -> str:
    """Digest of a command's normal form; "": there is none."""
    return _digest([part.text for part in _parts(argv)])


def shape(argv: Sequence[str]) -> str:
    """The same with its numbers left out."""
    return _digest([part.shape for part in _parts(argv)])


def user_digest(uid: int, salt: bytes) -> str:
    """A user as history knows them: without the machine's salt nobody tells who it is."""
    return hashlib.sha256(salt + str(uid).encode()).hexdigest()[:_DIGEST_CHARS]


def framework_of(words: Sequence[str]) -> str:
    """The framework that a command's words name first; "": none.

    >>> framework_of(["python", "-m", "torch.distributed.run"])
    'pytorch'
    """
    for one in words:
        for token in re.split(r"[^a-z0-9]+", one.lower()):
            if found := _FRAMEWORKS.get(token):
                return found
    return ""


def _digest(words: Sequence[str]) -> str:
    if not words:
        return ""
    raw = "\0".join(words).encode("utf-8", "replace")
    return hashlib.sha256(raw).hexdigest()[:_DIGEST_CHARS]


def _parts(argv: Sequence[str]) -> Iterator[_Part]:
    """The normal form, part by part."""
    name, taken, operands = "", 0, 0
    for index, text in enumerate(_unwrapped(argv)[:_WORDS_MAX]):
        if index == 0:
            kept = word(text.rstrip("/").rpartition("/")[2])
            yield _plain(_VERSIONED.sub(r"\1", kept))
            continue
        option = _OPTION.fullmatch(text.partition("=")[0])
        if name and is_secret(name) and not taken:
            yield _plain(MASK)  # whatever it looks like
            taken = 1
        elif option and number_of(text) is None:
            # What looks like an option and is of a text is none: no name is so long.
            said = _name(option[2])
            yield _plain(option[1] + said)
            name, taken = said, 0
            if "=" in text:
                yield _valued(text.partition("=")[2], name, "")
                taken = 1
        elif assigned := _ASSIGNMENT.match(text):
            yield _valued(text[assigned.end() :], assigned[1], f"{assigned[1]}=")
            name = ""
        elif name and (not taken or number_of(text) is not None):
            taken += 1
            yield _valued(text, name, "", taken)
        else:
            name = ""
            operands += 1
            yield _valued(text, "operand", "", operands)


def _unwrapped(argv: Sequence[str]) -> list[str]:
    """The words, those of a shell's script instead of the script."""
    words = [text for text in argv[:_WORDS_MAX] if text]
    if not words or word(words[0]) not in _SHELLS:
        return words
    at = 1
    while at < len(words) - 1 and _SHELL_OPTION.fullmatch(words[at]):
        if words[at].endswith("c"):
            return [*words[: at + 1], *_script(words[at + 1]), *words[at + 2 :]]
        at += 2 if words[at].endswith("o") else 1
    return words


def _script(text: str) -> list[str]:
    lexer = shlex.shlex(text[:65536], posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        return [found for found in lexer if found]
    except ValueError:  # a quotation that does not end
        return text.split()


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:_NAME_CHARS]


def _valued(text: str, name: str, before: str, number: int = 1) -> _Part:
    """The so manieth value of a name, after `before`, which is its own word's beginning."""
    for _ in range(_NESTED):
        if is_secret(name) or is_passing(name) or _VARIABLE.fullmatch(name):
            return _plain(before + MASK)
        inner = _ASSIGNMENT.match(text)
        if inner is None:
            break
        text, name, before = text[inner.end() :], inner[1], before + inner[0]
    else:
        return _plain(before + MASK)
    value = number_of(text)
    if value is None:
        text = word(text)
        value = number_of(text)
    if value is None:
        return _plain(before + text)
    plain = f"{value:.12g}"
    key = name.lower().replace("-", "_")[: _NAME_CHARS - 4] + (f".{number}" if number > 1 else "")
    return _Part(before + plain, before + NUMBER, key, float(plain))


def _plain(text: str) -> _Part:
    return _Part(text, text)
