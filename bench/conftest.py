"""What pytest-benchmark writes: this project's description of the machine (no host name), statistics without raw times."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.device_name import device_name
from bench.freed_memory import keep_freed_memory
from dat_engine.run.environment import describe_environment
from dat_kernels import available_backends

STATISTICS = ("min", "median", "iqr", "rounds")


@pytest.fixture(autouse=True, scope="session")
def kept_memory() -> None:
    keep_freed_memory()


def pytest_benchmark_generate_machine_info() -> dict[str, Any]:
    return {
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "instruction_set": _instruction_set(),
        "backends": list(available_backends()),
        **describe_environment(),
    }


def pytest_benchmark_generate_commit_info() -> dict[str, Any]:
    return {}  # machine_info names the commit


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    output_json.pop("commit_info", None)
    for benchmark in output_json["benchmarks"]:
        statistics = benchmark["stats"]
        kept = {"name": benchmark["name"], "group": benchmark["group"], "extra_info": _rounded(benchmark["extra_info"])}
        kept["stats"] = _rounded({name: statistics[name] for name in STATISTICS})
        benchmark.clear()
        benchmark.update(kept)


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in values.items()}


def _instruction_set() -> str | None:
    if "native" not in available_backends():
        return None
    from dat_kernels import _native

    return str(_native.current_instruction_set())
