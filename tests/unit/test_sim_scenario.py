# SPDX-License-Identifier: Apache-2.0
"""What may be simulated: keys, ranges, errors, generated mixes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from harp.errors import ConfigError
from harp.sim import Scenario, TenantSpec, generate, read
from harp.sim.scenario import Change, keys, override, parse

TENANT = {"tenant": [{"name": "a"}]}
TOML = """
seconds = 2
policy = "fifo"
[[tenant]]
name = "train"
count = 3
share = "20%"
[[tenant]]
name = "chat"
class = "latency"
load = "request"
share = 0.125
[[change]]
tenant = "train"
at_s = 1
limit = "50%"
"""


def test_a_file_is_read_and_what_is_not_said_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(TOML)
    found = read(path)
    assert found == Scenario(
        seconds=2.0,
        policy="fifo",
        tenants=(
            TenantSpec(name="train", count=3, share=200_000),
            TenantSpec(name="chat", klass="latency", load="request", share=125_000),
        ),
        changes=(Change(tenant="train", at_s=1.0, limit=500_000),),
    )


def test_json_holds_the_same_keys(tmp_path: Path) -> None:
    toml, other = tmp_path / "s.toml", tmp_path / "s.json"
    toml.write_text(TOML)
    tenants = [
        {"name": "train", "count": 3, "share": "20%"},
        {"name": "chat", "class": "latency", "load": "request", "share": 0.125},
    ]
    change = {"tenant": "train", "at_s": 1, "limit": "50%"}
    tree = {"seconds": 2, "policy": "fifo", "tenant": tenants, "change": [change]}
    other.write_text(json.dumps(tree))
    assert read(other) == read(toml)


@pytest.mark.parametrize(
    ("tree", "says", "hint"),
    [
        ([], "holds no table", "[[tenant]]"),
        ({}, "has no tenant", "[[tenant]]"),
        ({"tenant": {}}, "tenant (x) is no list", "[[tenant]]"),
        ({"tenant": [3]}, "3 (x, tenant) is no table", "keys and values"),
        ({**TENANT, "second": 1}, "unknown key second (x)", "did you mean seconds?"),
        ({**TENANT, "seconds": 0}, "seconds = 0 (x) is out of range", "0.01 to 3600"),
        ({**TENANT, "seconds": "long"}, "is no float", "0.01 to 3600"),
        ({**TENANT, "seconds": True}, "is no float", "0.01 to 3600"),
        ({**TENANT, "seed": 1.5}, "seed = 1.5 (x) is not whole", "0 to 2147483647"),
        ({**TENANT, "policy": "cfs"}, "policy = 'cfs'", "drr|priority|fifo"),
        ({**TENANT, "quantum_us": 900}, "quantum_us = 900", "1000 to 50000"),
        ({"tenant": [{"klass": "latency"}]}, "unknown key klass", "did you mean class?"),
        ({"tenant": [{"class": "royal"}]}, "class = 'royal'", "latency"),
        ({"tenant": [{"share": "30 apples"}]}, "share (x, tenant)", "write 30%"),
        ({"tenant": [{"share": 30}]}, "share = 30 (x, tenant) is no share", '"30%"'),
        (
            {"tenant": [{"share": 0.5, "limit": 0.2}]},
            "share of 50% above its limit of 20%",
            "least",
        ),
        ({"tenant": [{}, {}]}, "tenant tenant (x) is there twice", "count"),
        ({"tenant": [{"count": 4000}, {"name": "b", "count": 97}]}, "4097 tenants", "lower"),
        ({**TENANT, "change": [{"tenant": "b"}]}, "tenant 'b' (x)", "did you mean a?"),
        ({**TENANT, "change": [{"tenant": "a", "at_s": -1}]}, "at_s = -1", "0 to 3600"),
    ],
)
def test_a_wrong_scenario_names_value_range_and_remedy(tree: object, says: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(tree, "x")
    assert says in caught.value.message
    assert hint in caught.value.hint


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    with pytest.raises(ConfigError, match="cannot read the scenario"):
        read(path)
    path.write_text("[[tenant")
    with pytest.raises(ConfigError, match=r"cannot read the scenario .*s\.toml"):
        read(path)


def test_options_win_over_a_file_and_are_checked_alike() -> None:
    base = parse(TENANT, "x")
    assert override(base, {"seed": 7, "seconds": 3}, "options") == dataclasses.replace(
        base, seed=7, seconds=3.0
    )
    with pytest.raises(ConfigError, match=r"quantum_us = 1 .options. is out of range"):
        override(base, {"quantum_us": 1}, "options")


@pytest.mark.parametrize("count", [1, 7, 300])
def test_a_generated_mix_is_the_seeds_and_promises_at_most_what_there_is(count: int) -> None:
    found = generate(Scenario(seed=5), count)
    assert found == generate(Scenario(seed=5), count)
    assert len(found.tenants) == count
    assert sum(t.share for t in found.tenants) <= 800_000
    again = {"tenant": [dict(_written(t)) for t in found.tenants]}
    assert parse(again, "x").tenants == found.tenants  # what is generated could be written
    if count > 1:
        assert found.tenants != generate(Scenario(seed=6), count).tenants
    if count > 100:
        assert {t.klass for t in found.tenants} == {"standard", "latency", "best-effort"}
        assert {t.load for t in found.tenants} == {"saturate", "sync", "graph", "request"}


def test_few_tenants_with_large_shares_still_fit() -> None:
    sums = [sum(t.share for t in generate(Scenario(seed=s), 3).tenants) for s in range(200)]
    assert max(sums) == 800_000  # the bound was met and kept


def _written(tenant: TenantSpec) -> dict[str, object]:
    row = dataclasses.asdict(tenant)
    row["class"] = row.pop("klass")
    return row | {name: row[name] / 1_000_000 for name in ("share", "limit")}


@pytest.mark.parametrize("count", [0, 4097])
def test_too_many_or_too_few_tenants_are_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=f"{count} tenants are out of range"):
        generate(Scenario(), count)


@pytest.mark.parametrize("kind", [Scenario, TenantSpec, Change])
def test_every_key_has_a_sentence_and_legal_values(
    kind: type[Scenario | TenantSpec | Change],
) -> None:
    found = keys(kind)
    assert len(found) >= 5
    for name, (legal, text) in found.items():
        assert legal, name
        assert text.endswith((".", ").")), name
