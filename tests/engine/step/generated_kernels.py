"""Triton's part of a compilation for a GPU that is not there: kernels that Inductor wrote, compiled for it and not run."""

from __future__ import annotations

import importlib.util
import re
import resource
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tests.engine.step.inductor_counts import Code

_KERNEL = re.compile(r"(\w+) = async_compile\.triton\('\w+', '''(.*?)''', device_str='cuda'\)", flags=re.S)


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """Of the kernels of a step."""

    kernels: int
    configurations: int
    """Of all kernels: those that Inductor would choose from by timing them."""
    seconds: float
    """Of one core: this process's and its children's, the assembler's among them."""


def compile_ahead(codes: Iterable[Code], folder: Path) -> Compiled:
    """Every kernel in every configuration, as Inductor's worker processes do it; raises where one has none that compiles.

    `folder` receives their sources. Triton looks for them in its cache first: give it an empty one to measure.
    """
    from torch._inductor.runtime import triton_helpers

    kernels = {source: name for code in codes for name, source in _KERNEL.findall(code.source)}
    before, configurations = _seconds(), 0
    with mock.patch.object(triton_helpers, "set_driver_to_gpu", lambda: None):
        for number, (source, name) in enumerate(kernels.items()):
            kernel = getattr(_module(source, folder / f"generated_{number}.py"), name)
            configurations += len(kernel.configs)
            kernel._precompile_worker()
    return Compiled(kernels=len(kernels), configurations=configurations, seconds=_seconds() - before)


def _module(source: str, path: Path) -> Any:
    """Triton reads the source of a kernel from its file."""
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
