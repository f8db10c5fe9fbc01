# SPDX-License-Identifier: Apache-2.0
"""Manifests as jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harp.cli.pod_file import read_pod
from harp.errors import ConfigError

CONTAINER = {"name": "a", "image": "i:1", "command": ["python"], "args": ["x.py", 3]}


def pod(*containers: dict[str, Any], **meta: Any) -> dict[str, Any]:
    return {"kind": "Pod", "metadata": {"name": "p", **meta}, "spec": {"containers": [*containers]}}


def asking(count: object, name: str = "a") -> dict[str, Any]:
    return {**CONTAINER, "name": name, "resources": {"limits": {"harp.dev/gpu-share": count}}}


def written(tmp_path: Path, *documents: object) -> Path:
    """As YAML, of which JSON is a part."""
    file = tmp_path / "file.yaml"
    file.write_text("\n---\n".join(json.dumps(one) for one in documents))
    return file


def test_words_and_image_are_the_containers(tmp_path: Path) -> None:
    found = read_pod(written(tmp_path, pod(CONTAINER)))
    assert found.command == ("python", "x.py", "3")
    assert (found.image, found.owner, found.share_ppm, found.mem_bytes) == (
        "i:1",
        "default/Pod/p/a",
        0,
        0,
    )


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("Deployment", ("template",)),
        ("Job", ("template",)),
        ("CronJob", ("jobTemplate", "spec", "template")),
    ],
)
def test_a_template_is_the_pod_and_its_maker_the_owner(
    tmp_path: Path, kind: str, way: tuple[str, ...]
) -> None:
    inner: Any = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [CONTAINER]}}
    for step in reversed(way):
        inner = {step: inner}
    made = {"kind": kind, "metadata": {"name": "m", "namespace": "n"}, "spec": inner}
    service = {"kind": "Service", "spec": {"ports": []}}
    found = read_pod(written(tmp_path, service, made))
    assert found.owner == f"n/{kind}/m"
    assert found.labels == {"a": "b"}
    assert read_pod(written(tmp_path, {"kind": "List", "items": [service, made]})) == found


@pytest.mark.parametrize(
    ("kind", "name", "labels", "owner"),
    [
        ("StatefulSet", "s", {}, "default/StatefulSet/s"),
        ("ReplicaSet", "web-abc", {}, "default/ReplicaSet/web-abc"),
        ("ReplicaSet", "web-abc", {"pod-template-hash": "abc"}, "default/Deployment/web"),
        ("Job", "nightly", {}, "default/Job/nightly"),
        ("Job", "nightly-28512345", {}, "default/CronJob/nightly"),
    ],
)
def test_a_pod_has_the_owner_that_it_says(
    tmp_path: Path, kind: str, name: str, labels: dict[str, str], owner: str
) -> None:
    owners = [{"kind": "Note", "name": "x"}, {"kind": kind, "name": name, "controller": True}]
    made = pod(CONTAINER, ownerReferences=owners, labels=labels)
    assert read_pod(written(tmp_path, made)).owner == owner


@pytest.mark.parametrize(("count", "ppm"), [("25", 250_000), (100, 1_000_000), ("200", 1_000_000)])
def test_a_share_is_of_each_gpu(tmp_path: Path, count: object, ppm: int) -> None:
    beside = {"name": "beside"}
    assert read_pod(written(tmp_path, pod(beside, asking(count)))).share_ppm == ppm


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("18Gi", 18 << 30), ("500M", 500_000_000), ("4096", 4096), ("1.5k", 1500)],
)
def test_annotations_are_what_it_asks_for(tmp_path: Path, text: str, size_bytes: int) -> None:
    said = {"harp.dev/memory": text, "harp.dev/compute": "10"}
    found = read_pod(written(tmp_path, pod(asking("25"), annotations=said)))
    assert (found.mem_bytes, found.share_ppm) == (size_bytes, 100_000)


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        (({"kind": "Service"},), "has no pod: Service"),
        ((), "has no pod: nothing"),
        ((pod(asking("x")),), "'x' in"),
        ((pod(asking("0")),), "is no count"),
        ((pod(asking("1"), asking("2", "b")),), "2 containers"),
        ((pod({"name": "a"}, {"name": "b"}),), "none asks for"),
        ((pod(asking("1"), annotations={"harp.dev/memory": "much"}),), "is not a size"),
        ((pod(asking("1"), annotations={"harp.dev/compute": "400"}),), "outside"),
    ],
)
def test_what_cannot_be_read_is_said(
    tmp_path: Path, documents: tuple[object, ...], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        read_pod(written(tmp_path, *documents))


def test_a_container_can_be_named(tmp_path: Path) -> None:
    file = written(tmp_path, pod(asking("1"), asking("2", "b")))
    assert read_pod(file, "b").share_ppm == 20_000
    with pytest.raises(ConfigError, match="no container 'c'"):
        read_pod(file, "c")


def test_no_file_and_no_yaml_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_pod(tmp_path / "none")
    (tmp_path / "odd").write_text("a: [")
    with pytest.raises(ConfigError, match="neither YAML nor JSON"):
        read_pod(tmp_path / "odd")
