# SPDX-License-Identifier: Apache-2.0
"""Who may import whom: folder order is flow order, imports only go down."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: layer number of each module or package of harp; a module may import its own package and lower
#: layers. A new module must be given a place here.
LAYERS = {
    "harp.__version__": -1,  # a name in harp/__init__.py, which imports nothing for it
    "harp.errors": 0,
    "harp.units": 1,
    "harp.model": 2,
    "harp.estimator.modes": 2,  # settings name them
    "harp.config": 3,
    "harp.csvfile": 3,
    "harp.lease_wire": 4,
    "harp.keep_wire": 4,
    "harp.wire": 4,
    "harp.lease_admin": 5,
    "harp.native": 4,
    "harp.rundir": 4,
    "harp.scheduler": 4,
    "harp.estimator": 4,
    "harp.procs": 4,
    "harp.profile": 4,
    "harp.grants": 5,
    "harp.inject": 5,
    "harp.cdi": 6,
    "harp.discovery": 5,
    "harp.api": 5,
    "harp.kube": 5,
    "harp.trace": 5,
    "harp.client": 6,
    "harp.metrics": 5,
    "harp.web": 6,
    "harp.extender": 6,
    "harp.probe": 6,
    "harp.remote": 7,
    "harp.daemon": 7,
    "harp.sim": 8,
    "harp.demo": 8,
    "harp.softgpu": 8,
    "harp.bench": 9,  # reads the demo's view of the engine's ledger
    "harp.cli": 10,
    "harp.__main__": 11,
    "harp": 12,
}

#: the pure part: no clock, no I/O, no event loop, no logging
PURE = (
    "harp.errors",
    "harp.units",
    "harp.model",
    "harp.grants",
    "harp.metrics.dcgm",
    "harp.metrics.estimates",
    "harp.metrics.fairness",
    "harp.metrics.families",
    "harp.metrics.kernels",
    "harp.metrics.remote",
    "harp.metrics.samples",
    "harp.metrics.series",
    "harp.metrics.totals",
    "harp.keep_wire",
    "harp.remote.traffic",
    "harp.web.samples",
    "harp.web.state",
    "harp.daemon.fanout",
    "harp.probe.ptx",
    "harp.probe.questions",
    "harp.trace.entries",
    "harp.trace.export_chrome",
    "harp.trace.export_perfetto",
    "harp.trace.records",
    "harp.trace.spans",
    "harp.trace.summary",
    "harp.trace.timeline",
    "harp.daemon.recorder",
    "harp.daemon.spread",
    "harp.remote.floor",
    "harp.remote.events",
    "harp.remote.leases",
    "harp.remote.hold",
    "harp.remote.elf",
    "harp.remote.pool",
    "harp.estimator",
    "harp.estimator.advise",
    "harp.estimator.calibration",
    "harp.estimator.draft",
    "harp.estimator.estimate",
    "harp.estimator.frozen",
    "harp.estimator.guard",
    "harp.estimator.gpu_windows",
    "harp.estimator.job",
    "harp.estimator.modes",
    "harp.estimator.keys",
    "harp.estimator.masks",
    "harp.estimator.packing",
    "harp.estimator.past",
    "harp.estimator.replay.baselines",
    "harp.estimator.replay.pack",
    "harp.estimator.replay.score",
    "harp.estimator.replay.walk",
    "harp.estimator.rows",
    "harp.estimator.rules",
    "harp.estimator.running",
    "harp.estimator.signature",
    "harp.estimator.sketch",
    "harp.estimator.state",
    "harp.estimator.track",
    "harp.estimator.windows",
    "harp.scheduler",
    "harp.scheduler.baselines",
    "harp.scheduler.cluster",
    "harp.scheduler.fgd",
    "harp.scheduler.fragmentation",
    "harp.scheduler.hybrid",
    "harp.scheduler.placement",
    "harp.scheduler.policies",
    "harp.scheduler.policy",
    "harp.scheduler.refusal",
    "harp.scheduler.scarcity",
    "harp.scheduler.workload",
    "harp.extender.core",
    "harp.extender.decide",
    "harp.extender.objects",
    "harp.extender.room",
    "harp.extender.state",
    "harp.extender.waiting",
    "harp.sim.place",
    "harp.sim.scenario",
    "harp.sim.engine",
    "harp.sim.program",
    "harp.sim.client",
    "harp.sim.gaps",
    "harp.sim.world",
    "harp.sim.report",
)
IMPURE = {"asyncio", "time", "os", "socket", "subprocess", "structlog", "logging", "grpc", "pynvml"}

#: the device plugin is beside harp, in an image of its own: what it may import of harp, and what of
#: it is pure
PLUGIN_MAY = (
    "harp.api",
    "harp.client",
    "harp.config",
    "harp.discovery",
    "harp.errors",
    "harp.estimator",
    "harp.inject",
    "harp.metrics",
    "harp.keep_wire",
    "harp.model",
    "harp.native",
    "harp.rundir",
    "harp.scheduler",
    "harp.units",
)
PLUGIN_PURE = (
    "device_plugin.allocator",
    "device_plugin.annotations",
    "device_plugin.answer",
    "device_plugin.book",
    "device_plugin.estimates",
    "device_plugin.health",
    "device_plugin.hint",
    "device_plugin.identity",
    "device_plugin.registration",
    "device_plugin.remote_share",
    "device_plugin.slots",
)

#: the only importers of what reaches outside
ONLY = {
    "pynvml": ("harp.discovery",),
    "click": ("harp.cli",),
    "textual": ("harp.cli.top_app",),  # `harp run` must start fast
    "rich": ("harp.cli", "harp.demo", "harp.bench"),
    "grpc": ("harp.api", "harp.client", "harp.daemon", "harp.remote"),
    "cryptography": ("harp.remote",),
    "kubernetes": ("harp.kube", "harp.extender.objects"),  # an extra: not everybody has it
    "urllib3": ("harp.kube",),  # comes with it
    "prometheus_client": ("harp.metrics", "harp.extender"),
    # `harp run` must start fast; softgpu_step is a program of its own, beside NumPy
    "numpy": ("harp.scheduler", "harp.demo", "harp.bench.softgpu_step"),
    "tinygrad": ("harp.demo",),
    "perfetto": ("harp.trace.export_perfetto",),  # an extra
    "pyarrow": ("harp.estimator.tables",),  # an extra
    "cuda": ("harp.probe.driver",),  # an extra
}

#: the engine's own ledger judges HARP; no part that is judged may read it
TRUTH_READERS = (
    "harp/demo/",
    "harp/bench/",
    "harp/softgpu/",
    "harp/native.py",
    "harp/cli/demo.py",
    "harp/cli/bench.py",
)


def _modules(top: str = "harp") -> list[tuple[str, Path]]:
    found = []
    for path in sorted((ROOT / top).rglob("*.py")):
        relative = path.relative_to(ROOT)
        if "_lib" in relative.parts or path.name.endswith(("_pb2.py", "_pb2_grpc.py")):
            continue
        name = ".".join(relative.with_suffix("").parts)
        found.append((name.removesuffix(".__init__"), path))
    return found


def _layer(module: str) -> int:
    parts = module.split(".")
    while parts:
        name = ".".join(parts)
        if name in LAYERS and (name != "harp" or module == "harp"):
            return LAYERS[name]
        parts.pop()
    pytest.fail(f"{module} has no layer; give it one in {Path(__file__).name}")


def _imports(path: Path, module: str) -> set[str]:
    names: set[str] = set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, base] if base else up)
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize(("module", "path"), _modules(), ids=str)
def test_imports_go_down(module: str, path: Path) -> None:
    own = _layer(module)
    package = ".".join(module.split(".")[:2])
    for name in _imports(path, module):
        if name.startswith("harp.") and not (name == package or name.startswith(package + ".")):
            # `from harp.errors import X` also yields harp.errors.X: its longest known prefix counts
            assert _layer(name) < own, (
                f"{module} (layer {own}) imports {name} (layer {_layer(name)})"
            )
        top = name.split(".")[0]
        if top in ONLY:
            assert module.startswith(ONLY[top]), f"{module} imports {top}; only {ONLY[top]} may"
        if module in PURE:
            assert top not in IMPURE, f"{module} is pure and imports {top}"
        assert top != "device_plugin", f"{module} imports {name}, which is not in the wheel"


@pytest.mark.parametrize(("module", "path"), _modules("device_plugin"), ids=str)
def test_the_device_plugin_imports_what_it_may(module: str, path: Path) -> None:
    for name in _imports(path, module):
        top = name.split(".")[0]
        if top == "harp" and name != "harp":
            assert (name + ".").startswith(tuple(f"{may}." for may in PLUGIN_MAY)), name
        if top in ONLY and top != "grpc":
            pytest.fail(f"{module} imports {top}; only {ONLY[top]} may")
        if module in PLUGIN_PURE:
            assert top not in IMPURE, f"{module} is pure and imports {top}"
            if top == "device_plugin" and name.count("."):
                pure = (f"{p}." for p in PLUGIN_PURE)
                assert (name + ".").startswith(tuple(pure)), f"{module} is pure, {name} is not"


def test_truth_ledger_has_no_other_reader() -> None:
    readers = [
        str(path.relative_to(ROOT))
        for _, path in _modules()
        if re.search(r"soft[-_]truth", path.read_text())
        and not str(path.relative_to(ROOT)).startswith(TRUTH_READERS)
    ]
    assert readers == []


@pytest.mark.parametrize("folder", ["shim", "arbiter"])
def test_truth_ledger_is_closed_to_native_parts(folder: str) -> None:
    """Nothing of the shim or the arbiter includes the software GPU's inside."""
    for path in (ROOT / "native" / "src" / folder).rglob("*.[chS]"):
        assert "soft/gpu/" not in path.read_text(), path


def test_software_gpu_stands_alone() -> None:
    """native/soft includes nothing of ours but the generated ABI and itself: a plain libcuda."""
    for path in (ROOT / "native" / "soft").rglob("*.[ch]"):
        for include in re.findall(r'#\s*include\s*["<]([^">]+)[">]', path.read_text()):
            assert not include.startswith(("harp/", "src/")), f"{path} includes {include}"


def test_top_level_is_fixed() -> None:
    allowed = {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "harp",
        "device_plugin",
        "native",
        "deploy",
    }
    allowed |= {"tests", "build", "dist"}
    found = {p.name for p in ROOT.iterdir() if not p.name.startswith(".")}
    assert found <= allowed, f"not in the layout: {sorted(found - allowed)}"


def test_modules_of_tests_have_names_of_their_own() -> None:
    """Those of these folders are collected together: there two of one name are an error."""
    names = [
        path.name
        for folder in ("unit", "contract", "integration")
        for path in (ROOT / "tests" / folder).rglob("test_*.py")
    ]
    assert len(names) > 100
    assert sorted(names) == sorted(set(names))
