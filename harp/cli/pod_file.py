# SPDX-License-Identifier: Apache-2.0
"""A manifest of Kubernetes as a job: what its container runs, and what it asks for."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from harp.daemon.recorder import owner_of
from harp.errors import ConfigError, UnitError
from harp.units import PPM, parse_percent, parse_size

__all__ = ["PodJob", "read_pod"]

_SHARE, _MEMORY, _COMPUTE = "harp.dev/gpu-share", "harp.dev/memory", "harp.dev/compute"
#: a whole GPU, as harp.dev/gpu-share counts
_WHOLE = 100
#: where the pod is in what makes pods, from the outside in
_TEMPLATES = (("spec", "jobTemplate", "spec", "template"), ("spec", "template"))
#: a CronJob's Job: its name and the minute
_SCHEDULED = re.compile(r"(.+)-[0-9]{8,}")
#: Kubernetes' decimal units, which harp.units does not take
_DECIMAL = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}


@dataclass(frozen=True, slots=True)
class PodJob:
    """What a manifest says of the container that uses a GPU."""

    command: tuple[str, ...]  #: empty: the image's own
    image: str
    owner: str  #: namespace/Kind/name
    labels: Mapping[str, str]
    share_ppm: int  #: it asks for, of a GPU; 0: nothing said
    mem_bytes: int  #: the same
    annotations: Mapping[str, str]  #: those of HARP


def read_pod(path: Path, container: str = "", namespace: str = "default") -> PodJob:
    """Read the first manifest that has a pod: YAML, or JSON as kubectl prints it.

    Args:
        path: file.
        container: name of the one that uses a GPU; "": the one that asks for a share, or the only.
        namespace: where it does not say one.

    Raises:
        ConfigError: there is no such thing in it.
    """
    documents = list(_documents(path))
    for document in documents:
        for part in document["items"] if isinstance(document.get("items"), list) else [document]:
            if isinstance(part, dict) and (found := _pod(part)):
                return _job(path, part, found, container, namespace)
    kinds = ", ".join(sorted({str(d.get("kind", "?")) for d in documents})) or "nothing"
    raise ConfigError(
        f"{path} has no pod: {kinds}", "give the manifest of a Pod, Deployment or Job"
    )


def _documents(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    try:
        found: list[Any] = [json.loads(text)]
    except json.JSONDecodeError:
        try:
            yaml = importlib.import_module("yaml")
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{path} is no JSON, and PyYAML, which reads YAML, is not installed",
                "pip install pyyaml, or: kubectl get ... -o json > FILE",
            ) from error
        try:
            found = list(yaml.safe_load_all(text))
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is neither YAML nor JSON: {error}") from error
    yield from (one for one in found if isinstance(one, dict))


def _pod(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The pod, or the template of one: what has containers in its spec."""
    for way in (*_TEMPLATES, ()):
        inner: Any = document
        for step in way:
            inner = inner.get(step) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and _at(inner, "spec").get("containers"):
            return inner
    return None


def _job(
    path: Path, document: Mapping[str, Any], pod: Mapping[str, Any], container: str, namespace: str
) -> PodJob:
    one = _container(path, pod, container)
    meta = _at(pod, "metadata")
    annotations = {
        str(name): str(value)
        for name, value in _at(meta, "annotations").items()
        if str(name).startswith("harp.dev/")
    }
    share = _share(path, one, annotations)
    return PodJob(
        command=tuple(str(word) for key in ("command", "args") for word in one.get(key) or ()),
        image=str(one.get("image", "")),
        owner=_owner(document, pod, str(one.get("name", "")), namespace),
        labels={str(name): str(value) for name, value in _at(meta, "labels").items()},
        share_ppm=share,
        mem_bytes=_memory(path, annotations),
        annotations=annotations,
    )


def _container(path: Path, pod: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    every = [one for one in pod["spec"]["containers"] if isinstance(one, dict)]
    names = ", ".join(str(one.get("name")) for one in every)
    if name:
        chosen = [one for one in every if one.get("name") == name]
        if not chosen:
            raise ConfigError(f"{path} has no container {name!r}", f"there is {names}")
        return chosen[0]
    asking = [one for one in every if _asked(one) is not None]
    chosen = asking or every
    if len(chosen) != 1:
        what = f"ask for {_SHARE}" if asking else f"are there, none asks for {_SHARE}"
        raise ConfigError(
            f"{len(chosen)} containers of {path} {what}", f"name one: --container ({names})"
        )
    return chosen[0]


def _asked(container: Mapping[str, Any]) -> object:
    resources = _at(container, "resources")
    limits, requests = _at(resources, "limits"), _at(resources, "requests")
    return limits.get(_SHARE, requests.get(_SHARE))


def _share(path: Path, container: Mapping[str, Any], annotations: Mapping[str, str]) -> int:
    """Of each GPU: shares above 100 are whole GPUs."""
    asked = _asked(container)
    if asked is None:
        return 0
    if not str(asked).isdigit() or int(str(asked)) == 0:
        raise ConfigError(
            f"{_SHARE}: {asked!r} in {path} is no count", "parts of a GPU in hundredths, as 25"
        )
    share = min(int(str(asked)), _WHOLE) * PPM // _WHOLE
    if _COMPUTE in annotations:
        try:
            share = min(share, parse_percent(annotations[_COMPUTE]))
        except UnitError as error:
            raise ConfigError(f"{_COMPUTE} in {path}: {error.message}", error.hint) from error
    return share


def _memory(path: Path, annotations: Mapping[str, str]) -> int:
    text = annotations.get(_MEMORY, "").strip()
    if not text:
        return 0
    try:
        if text[-1] in _DECIMAL and text[:-1].replace(".", "", 1).isdigit():
            return int(Decimal(text[:-1]) * _DECIMAL[text[-1]])
        return parse_size(f"{text}B" if text.endswith("i") else text)
    except UnitError as error:
        raise ConfigError(f"{_MEMORY} in {path}: {error.message}", 'as "18Gi"') from error


def _owner(document: Mapping[str, Any], pod: Mapping[str, Any], container: str, where: str) -> str:
    """What makes such pods, as the device plugin says it to harpd (device_plugin/api.py)."""
    meta = _at(document, "metadata")
    kind, name = str(document.get("kind", "Pod")), str(meta.get("name", ""))
    space = str(meta.get("namespace") or where)
    if kind == "Pod":
        owners = meta.get("ownerReferences") or ()
        of = next((one for one in owners if isinstance(one, dict) and one.get("controller")), None)
        if of is None:
            return owner_of({"namespace": space, "pod": name, "container": container})
        kind, name = str(of.get("kind", "")), str(of.get("name", ""))
    version = _at(_at(pod, "metadata"), "labels").get("pod-template-hash")
    if kind == "ReplicaSet" and version:
        kind, name = "Deployment", name.removesuffix(f"-{version}")
    elif kind == "Job" and (scheduled := _SCHEDULED.fullmatch(name)):
        kind, name = "CronJob", scheduled[1]
    return f"{space}/{kind}/{name}"


def _at(where: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A mapping of a mapping; empty if there is none."""
    found = where.get(key)
    return found if isinstance(found, dict) else {}
