# SPDX-License-Identifier: Apache-2.0
"""What of a command's words says nothing of what it needs, or is nobody's business. Pure.

Each function takes what it may not keep for `MASK`. What stays of a word has no blanks, quotes or
slashes, so that it is the same when it is looked at again.
"""

from __future__ import annotations

import re

__all__ = ["MASK", "NUMBER", "is_passing", "is_secret", "number_of", "parts_of", "word"]

MASK = "*"
#: in a shape: where a number was
NUMBER = "#"
_LONGEST = 256
#: parts of a name whose value is a secret, wherever they are in it
_SECRETS = re.compile(r"secret|passw|credential|authoriz|bearer|cookie|apikey|accesskey|privatekey")
#: ... and where they are its last part (`key_dim` is none), but for counts (`max_tokens` is none)
_SECRET_LAST = {"token", "key", "auth", "pwd", "pass", "passphrase", "pat", "pin", "signature"}
_COUNTED = {"max", "min", "num", "n", "new", "per", "special", "pad", "eos", "bos", "unk", "mask"}
#: parts of a name whose value is another in each run, and changes nothing
_PASSING = {
    *("seed", "port", "pid", "uuid", "guid", "rank", "host", "hostname", "addr", "address", "ip"),
    *("endpoint", "url", "uri", "nonce", "timestamp", "date", "datetime", "logdir", "workdir"),
    *("tmpdir", "tmp", "temp", "output", "outdir", "out", "logfile", "comment", "note", "notes"),
    *("rdzv", "wandb", "email", "user", "username"),
}
_ID_LAST = {"id", "time"}
#: names and ids of these are of what is run, not of the run
_THINGS = {"model", "dataset", "data", "tokenizer", "lora", "config", "adapter", "gpu", "device"}
_NAMED_LAST = {"name", "tag", "label"}
_RUNS = {"run", "exp", "experiment", "job", "session", "trial", "task", "container", "project"}
_CAPITALS = re.compile(r"([a-z0-9])([A-Z])")

_YEAR, _MONTH, _DAY = r"(?:19|20)\d\d", r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_DATE = re.compile(
    rf"(?<!\d){_YEAR}([-_.:]?){_MONTH}\1{_DAY}(?:[-_.T:]?[0-2]\d([-_.:]?)[0-5]\d(?:\2[0-5]\d)?)?"
    r"(?:\.\d+)?Z?(?!\d)"
)
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_TEMPORARY = re.compile(r"(?<![A-Za-z0-9])tmp[._]?[A-Za-z0-9_]{6,}")
_ADDRESS = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?(?![\d.])")
_HOST = re.compile(r"(?<![\w.-])(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+):\d{2,5}$")
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
#: a path from the root or from here may have blanks in it
_PATH, _SEVERAL = re.compile(r"(?:~|\.{0,2})/"), re.compile(r"\s[-/.~]")
#: letters and digits in a row that no name has so many of
_RUN = re.compile(r"[A-Za-z0-9]{16,}")
_HEX = re.compile(r"(?<![A-Za-z0-9])(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8,}(?![A-Za-z0-9])")
_ID = re.compile(r"\d{13,}")
#: what a word may not have: it is parted by these, or means something to a shell
_ODD = re.compile(r"[\s'\"\\`$();<>|&]")
_ASSIGNED = re.compile(
    r"(?<![\w.-])([A-Za-z_][\w.-]*)(\s*[:=]\s*)(?:(?:bearer|basic)\s+)?"
    r"(?:\"[^\"]*\"?|'[^']*'?|\S+)",
    re.IGNORECASE,
)

_DIGITS = re.compile(r"[+-]?(?:\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(?:[eE][+-]?\d{1,2})?", re.ASCII)
_UNITS = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12} | {
    f"{letter}i": 1024.0**power for power, letter in enumerate("KMGT", 1)
}
_SIZED = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)((?:[KMGT]i?|k))B?", re.ASCII)
_LEAST = 1e-90
#: seconds since 1970, from 2014 to 2036
_EPOCH = (1.4e9, 2.1e9)


def parts_of(name: str) -> list[str]:
    """Parts of an option's name, small.

    >>> parts_of("--perDevice_train-batch.size")
    ['per', 'device', 'train', 'batch', 'size']
    """
    spaced = _CAPITALS.sub(r"\1_\2", name[:_LONGEST])
    return [part for part in re.split(r"[^a-z0-9]+", spaced.lower()) if part]


def is_secret(name: str) -> bool:
    """Whether what is said under this name may not be known.

    >>> is_secret("--hf-token"), is_secret("max_tokens"), is_secret("--num-key-value-heads")
    (True, False, False)
    """
    parts = parts_of(name)
    if _SECRETS.search("".join(parts)):
        return True
    return bool(parts) and (
        (parts[-1] in _SECRET_LAST or parts[-1].endswith("token")) and not _COUNTED & set(parts)
    )


def is_passing(name: str) -> bool:
    """Whether what is said under this name is of one run alone.

    >>> is_passing("--seed"), is_passing("run_name"), is_passing("--model-name")
    (True, True, False)
    """
    parts = parts_of(name)
    if not parts:
        return False
    rest, last = set(parts[:-1]), parts[-1]
    if _PASSING & {*rest, last}:
        return True
    if last in _ID_LAST or (last.endswith("id") and last[:-2] in _RUNS):
        return not rest & _THINGS
    return last in _NAMED_LAST and rest <= _RUNS


def number_of(text: str) -> float | None:
    """A number, sizes with their unit; None: it is none, or none that means an amount.

    >>> number_of("32"), number_of("8GiB"), number_of("1e-4"), number_of("70b")
    (32.0, 8589934592.0, 0.0001, None)
    """
    if _DIGITS.fullmatch(text):
        if _DATE.fullmatch(text):
            return None
        value = float(text)
        epoch = _EPOCH[0] <= value < _EPOCH[1] and value % 1000 != 0
        return None if epoch or not (value == 0 or _LEAST <= abs(value) <= 1 / _LEAST) else value
    if sized := _SIZED.fullmatch(text):
        return float(sized[1]) * _UNITS[sized[2].replace("k", "K")]
    return None


def word(text: str) -> str:
    """One word or text without what may not be kept, not a number.

    >>> word("/data/runs/2026-01-31/train.py"), word("/scratch/tmpq1w2e3r4"), word("resnet50")
    ('train.py', '*', 'resnet50')
    """
    text = text[: 4 * _LONGEST]
    for _ in range(8):  # what one mask leaves may be another's
        before, text = text, _masked(_secrets_out(text))
        if text == before:
            break
    return text


def _secrets_out(text: str) -> str:
    def hide(found: re.Match[str]) -> str:
        return f"{found[1]}{found[2]}{MASK}" if is_secret(found[1]) else found[0]

    return _ASSIGNED.sub(hide, text)


def _masked(text: str) -> str:
    if _URL.match(text):
        text = text.split("?", 1)[0].split("#", 1)[0]
    if _PATH.match(text) and not _SEVERAL.search(text):
        text = text.rstrip("/").rpartition("/")[2] or "/"
    pieces = (
        piece.rstrip("/").rpartition("/")[2] or "/" * ("/" in piece) for piece in text.split()
    )
    text = "_".join(pieces).replace("/", "_") or MASK
    for pattern in (_UUID, _DATE, _ADDRESS, _HOST, _TEMPORARY, _HEX, _ID):
        text = pattern.sub(MASK, text)
    text = _RUN.sub(_unless_name, text)
    text = "".join(c if c.isprintable() else "_" for c in text)
    if not re.fullmatch(r"[();<>|&]+", text):
        text = _ODD.sub("_", text)
    text = re.sub(r"(?:\*[-_.:]*)*\*", MASK, text).replace("=", ":")
    if text not in {"-", "--"}:
        text = text.lstrip("-+~") or MASK  # else it would be an option
    return text[:_LONGEST]


def _unless_name(found: re.Match[str]) -> str:
    """Random text has digits between its letters; a name has at most some at its end."""
    text = found[0]
    switches = len(re.findall(r"[0-9][A-Za-z]|[A-Za-z][0-9]", text))
    return MASK if switches > 2 else text
