# SPDX-License-Identifier: Apache-2.0
"""What the pages show is there: commands, settings, values of the chart, series, files, links."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

from harp.metrics import series
from harp.metrics.families import PLUGIN, REMOTE
from tests.unit import code_texts, page_parts
from tests.unit.page_parts import ROOT, blocks, chart_problem, commands, keys, pages, spans, wrong

OPERATIONS = ROOT / "deploy" / "OPERATIONS.md"
#: pages in which each name in backticks must be one of ours
STRICT = [
    page
    for page in (
        OPERATIONS,
        ROOT / "deploy" / "TROUBLESHOOTING.md",
        ROOT / "harp" / "ARCHITECTURE.md",
        ROOT / ".github" / "CONTRIBUTING.md",
        ROOT / ".github" / "SECURITY.md",
        ROOT / ".github" / "CHANGELOG.md",
    )
    if page.exists()
]

_DOTTED = re.compile(r"(?<![\w./$-])[a-z][A-Za-z]*(?:\.[A-Za-z_]+)+(?![\w(/.])")
_FILES = re.compile(r"\.(md|py|toml|db|log|json|csv|key|crt|yaml|service|sock|salt|lock|proto|so)$")
_OTHERS = re.compile(r"example\.org$|^docs\.|^github\.")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", pages(), ids=_name)
def test_commands_are_taken_as_they_are_shown(page: Path) -> None:
    problems = {c: p for c, typed in commands(page.read_text()) if (p := wrong(c, typed=typed))}
    assert problems == {}


@pytest.mark.parametrize("page", pages(), ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for link in _LINK.findall(text):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        if anchor:
            assert anchor in _anchors(target), f"{link}: no such heading"


@cache
def _anchors(page: Path) -> frozenset[str]:
    """Headings, as GitHub calls them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return frozenset(
        re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", h).lower()).replace(" ", "-")
        for h in heads
    )


@pytest.mark.parametrize("page", STRICT, ids=_name)
def test_dotted_names_are_settings_or_values_of_the_chart(page: Path) -> None:
    known = set(keys()) | page_parts.chart_values()
    for span in spans(page.read_text()):
        if span.startswith(("helm ", "gpu", "harp ")):
            continue  # judged as commands
        for name in _DOTTED.findall(span):
            if _FILES.search(name) or _OTHERS.search(name) or name in known:
                continue
            assert name.startswith(("harp.", "device_plugin.", "native.")), f"{name} in `{span}`"
            assert importlib.util.find_spec(name), f"{name} in `{span}`"


@pytest.mark.parametrize("page", STRICT, ids=_name)
def test_what_helm_is_told_is_a_value_of_the_chart(page: Path) -> None:
    text = page.read_text()
    for line in (*blocks(text), *spans(text)):
        if line.startswith("helm ") and "--set" in line:
            assert chart_problem(line) == "", line


@pytest.mark.parametrize("page", STRICT, ids=_name)
def test_settings_in_a_file_are_harpd_s(page: Path) -> None:
    table = ""
    for line in blocks(page.read_text()):
        if head := re.fullmatch(r"\[(\w+)\]", line):
            table = head[1]
        elif table and (found := re.fullmatch(r'(\w+) = "?([^"]*)"?', line)):
            keys()[f"{table}.{found[1]}"].check(found[2], line)


@pytest.mark.parametrize("page", STRICT, ids=_name)
def test_series_are_exposed(page: Path) -> None:
    known = {family.name for family in (*series.DAEMON, *PLUGIN, *REMOTE)}
    for span in spans(page.read_text()):
        for name in re.findall(r"\bharp_[a-z_]+", span):
            if not name.startswith(("harp_hook_", "harp_soft_")):
                assert name in known, span


@pytest.mark.parametrize("page", STRICT, ids=_name)
def test_files_of_the_checkout_are_there(page: Path) -> None:
    text = page.read_text()
    for span in (*spans(text), *blocks(text)):
        for path in re.findall(
            r"(?<![\w/.~$-])(?:harp|device_plugin|native|deploy|tests)/[\w./*-]+", span
        ):
            assert list(ROOT.glob(path.rstrip("/."))), f"{path} in `{span}`"
        if found := re.search(r"python -m ([\w.]+)", span):
            assert importlib.util.find_spec(found[1]), span


@pytest.mark.parametrize("page", pages(), ids=_name)
def test_variables_of_the_environment_are_read_somewhere(page: Path) -> None:
    for name in re.findall(r"\bHARP_[A-Z_]+\b", page.read_text()):
        assert name in _sources(), name


@cache
def _sources() -> frozenset[str]:
    parts = []
    for folder, pattern in (
        ("harp", "*.py"),
        ("device_plugin", "*.py"),
        ("native", "*.[ch]"),
        ("native/include", "*.h"),
        ("tests", "*.py"),
        ("deploy", "*"),
    ):
        parts += [
            path.read_text(errors="replace")
            for path in (ROOT / folder).rglob(pattern)
            if path.is_file() and path.suffix != ".md"
        ]
    parts += [(ROOT / "tests" / "check").read_text(), (ROOT / "pyproject.toml").read_text()]
    parts += [path.read_text() for path in (ROOT / "tests" / "kube").rglob("*.sh")]
    names = re.findall(r"\bHARP_[A-Z_]+\b", "\n".join(parts))
    return frozenset(names) | {key.env for key in keys().values()}


def test_every_alert_has_a_row() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "monitoring" / "rules.yaml").read_text())
    alerts = {r["alert"] for g in rules["groups"] for r in g["rules"] if "alert" in r}
    rows = re.findall(r"^\| (Harp[\w, ]+) \|", OPERATIONS.read_text(), re.MULTILINE)
    named = [name for row in rows for name in row.split(", ")]
    assert len(named) == len(set(named))
    assert set(named) == alerts


def test_ports_are_those_of_the_chart() -> None:
    values = yaml.safe_load((ROOT / "deploy" / "helm" / "harp" / "values.yaml").read_text())
    rows = re.findall(
        r"^\| (\d+)[^|]* \(.*?`([\w.]+Port|[\w.]+port)`", OPERATIONS.read_text(), re.MULTILINE
    )
    assert len(rows) == 7
    for port, path in rows:
        found = values
        for name in path.split("."):
            found = found[name]
        assert found == int(port), path


def test_events_of_logs_are_said() -> None:
    for span in spans(OPERATIONS.read_text()):
        if re.fullmatch(r"[a-z]+(_[a-z]+)+", span) and not span.startswith("harp_"):
            known = span in code_texts.templates() or span == "runs_out_soon"
            assert known, span


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("harp run --mem 8GiB -- CMD", ""),
        ("harp run --mem 8GB -- CMD", "decimal unit"),
        ("harp run --memory 8GiB -- CMD", "No such option"),
        ("harp set TENANT --class fast", "is not one of"),
        ("harp walk", "harp has no walk"),
        ("harp remote renew", "harp remote has no renew"),
        ("harp daemon --set time.quantum_us=2000", ""),
        ("harp daemon --set time.quantum=2000", "no setting"),
        ("harp daemon --set time.quantum_us=2", "no setting"),
        ("harp daemon --set KEY=VALUE", ""),
        ("harp estimate --command LINE", ""),
        ("harp estimate explain JOB", ""),
        ("harp run --policy", "requires an argument"),
        ("harp ps now", "takes no now"),
    ],
)
def test_a_wrong_command_is_noticed(command: str, problem: str) -> None:
    found = wrong(command, typed=True)
    assert problem in found if problem else found == ""


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (r"helm upgrade x --set 'daemon.settings.watchdog\.policy=kill'", ""),
        (r"helm upgrade x --set daemon.settings.watchdog\.policy=kill", "no setting"),
        (r"helm upgrade x --set 'daemon.settings.watchdog\.rule=kill'", "no setting"),
        ("helm upgrade x --set cleanup.enabled=true --set gpusPerNode=8", ""),
        ("helm upgrade x --set cleanup.enabled=true --set gpus=8", "no value of the chart: gpus"),
    ],
)
def test_a_wrong_value_of_the_chart_is_noticed(line: str, problem: str) -> None:
    found = chart_problem(line)
    assert problem in found if problem else found == ""


def test_commands_are_found_in_text_and_fences() -> None:
    text = """
Say `harp ps`, not `harp-link`, nor `harp: no`, nor `harp run [--mem 8GiB]`; `sudo harp cdi T`.
```
gpu1$   harp remote serve --dir D        a remark
HARP_RUN=/r harp daemon --status   # another
harp top
```
"""
    assert sorted(commands(text)) == [
        ("harp cdi T", False),
        ("harp daemon --status", True),
        ("harp ps", False),
        ("harp remote serve --dir D", True),
        ("harp top", True),
    ]


def test_pip_is_sent_to_no_package_of_our_name() -> None:
    """In the public index it is another's: what we need is asked for by its own name."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    told = [words for text in code_texts.templates() for words in _pip_words(text)]
    assert len(told) > 3
    for text in (page.read_text() for page in pages()):
        told += _pip_words(text)
    for word in told:
        assert not re.match(r"harp(?![\w./*-])", word), word
        if ">" in word:
            assert word in {need for needs in extras.values() for need in needs}, word


def _pip_words(text: str) -> list[str]:
    """What `pip install` is given."""
    return [
        word.strip("'\"`,")
        for rest in re.findall(r"pip install (.+)", text)
        for word in re.split(r",|`| and ", rest)[0].split()
        if not word.startswith("-")
    ]
