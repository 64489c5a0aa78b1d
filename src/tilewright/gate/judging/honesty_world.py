"""What a candidate changes for everybody else: findings, from its source and from what `gate.inside.world` saw."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from tilewright.gate.contract.rules import finding
from tilewright.gate.contract.syntax import Source
from tilewright.gate.inside import world
from tilewright.values.verdict import Finding, Severity

#: Parts of names and strings that reach for what a whole device or process has, and what that is.
_REACHES: Mapping[str, str] = {
    "cudaDeviceSetLimit": "limits of the device",
    "cuCtxSetLimit": "limits of the device",
    "cudaLimitPersistingL2CacheSize": "the persisting part of L2",
    "PersistingL2Cache": "the persisting part of L2",
    "PERSISTING_L2_CACHE": "the persisting part of L2",
    "accessPolicyWindow": "the persisting part of L2",
    "ACCESS_POLICY_WINDOW": "the persisting part of L2",
    "cudaDeviceReset": "the device",
    "cudaDeviceSetCacheConfig": "the caches of the device",
    "set_per_process_memory_fraction": "the allocator",
    "change_current_allocator": "the allocator",
    "libcudart": "the driver",
    "libcuda.so": "the driver",
}
_MODULES = ("cuda", "cupy", "pycuda", "pynvml")
_GRAPHS = ("torch.cuda.CUDAGraph", "torch.cuda.graph", "torch.cuda.graphs", "torch.cuda.make_graphed_callables")


def source_findings(source: Source) -> Iterator[Finding]:
    """What the source names: the device's own limits, captured graphs."""
    reached: dict[str, int] = {}
    graphs: list[int] = []
    for node in ast.walk(source.tree):
        line = int(getattr(node, "lineno", 0))
        for text in _texts(node):
            for part, what in _REACHES.items():
                if part in text:
                    reached.setdefault(f"{what} (`{part}`)", line)
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        for module in modules:
            if module.partition(".")[0] in _MODULES:
                reached.setdefault(f"the device through `{module}`", line)
        if isinstance(node, ast.Name | ast.Attribute) and str(source.names.resolve(node)).startswith(_GRAPHS):
            graphs.append(line)
    for what, line in reached.items():
        yield finding("honesty.world", f"it reaches for {what}, which everybody shares", line)
    if graphs and not torch.cuda.is_available():
        text = "it replays CUDA graphs: what that does for inputs at other addresses cannot be tried without a GPU"
        yield finding("honesty.graph", text, graphs[0])


def _texts(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.ImportFrom):
        yield from (alias.name for alias in node.names)


def findings_of(report: Mapping[str, Any]) -> Iterator[Finding]:
    """What was seen: `operators`, changes `imported` and `called` of the report at the end of the experiments."""
    operators = [str(name) for name in report.get("operators", ())]
    if operators:
        names = ", ".join(dict.fromkeys(operators))
        yield finding("honesty.world", f"it replaces operators that are not its own: {names}, for the whole process")
    for when, key in (("its import", "imported"), ("its forward pass", "called")):
        for harmless in (False, True):
            names = ", ".join(str(name) for name in report.get(key, ()) if _is_note(str(name), key) is harmless)
            if names:
                found = finding("honesty.world", f"{when} changes for the whole process: {names}")
                yield replace(found, severity=Severity.NOTE) if harmless else found


def _is_note(name: str, key: str) -> bool:
    # Scripts seed on import, and whoever wants other numbers seeds after it; a call must not.
    return world.is_harmless(name) or (key == "imported" and name.startswith("torch.manual_seed"))
