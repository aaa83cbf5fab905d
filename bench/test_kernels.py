"""Every kernel x backend x shape beside eager PyTorch and torch.compile. A wrong result fails and is not timed.

    python -m pytest bench --benchmark-only                    # table per operation and shape
    make bench                                                 # and JSON and picture in bench/results

`extra_info` of each benchmark: milliseconds a call, bytes that the operation must move, GB/s, and the share of the
bandwidth of a large copy measured in the same process. The share can exceed 1 where inputs stay in the CPU's cache.
Subjects run one after another here; `python -m bench.kernels_cpu` alternates them, for ratios to be quoted.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import pytest
import torch

from bench.kernel_cases import CASES, Case, Problem, Task

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CALLS_PER_SYNCHRONISATION = 50 if DEVICE.type == "cuda" else 1
COPY_BYTES = 2**30 if DEVICE.type == "cuda" else 2**27
RUNS = [
    pytest.param(case, subject, id=f"{case.title}-{subject}")
    for case in CASES
    if DEVICE.type == "cuda" or not case.cuda_only
    for subject in case.subjects(DEVICE)
]


@pytest.fixture(scope="session")
def copy_bandwidth() -> float:
    """Bytes read plus written per second by the fastest of 15 copies that no cache holds."""
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    target.copy_(source)
    seconds = []
    for _ in range(15):
        _wait()
        begin = time.perf_counter()
        target.copy_(source)
        _wait()
        seconds.append(time.perf_counter() - begin)
    return 2 * COPY_BYTES / min(seconds)


@functools.lru_cache(maxsize=1)
def problem_of(case: Case) -> Problem:
    return case.problem(DEVICE)


@pytest.mark.parametrize(("case", "subject"), RUNS)
@pytest.mark.benchmark(max_time=0.4, min_rounds=7, warmup=True, warmup_iterations=2, disable_gc=True)
def test_kernel(case: Case, subject: str, copy_bandwidth: float, benchmark: Any) -> None:
    problem = problem_of(case)
    task = problem.task(subject)
    fault = problem.fault(subject, task())
    assert fault is None, f"{case.title}, {subject}: {fault}"
    benchmark.group = case.title
    benchmark(_calls(task))
    if benchmark.stats is None:  # --benchmark-disable: the check alone
        return
    seconds = benchmark.stats.stats.median / CALLS_PER_SYNCHRONISATION
    bytes_per_second = case.bytes_moved / seconds
    benchmark.extra_info.update(
        operation=case.operation,
        shape=case.shape,
        subject=subject,
        baseline=case.eager[0],
        milliseconds=seconds * 1e3,
        bytes_moved=case.bytes_moved,
        gb_per_s=bytes_per_second / 1e9,
        share_of_copy_bandwidth=bytes_per_second / copy_bandwidth,
        copy_gb_per_s=copy_bandwidth / 1e9,
    )


def _calls(task: Task) -> Task:
    if CALLS_PER_SYNCHRONISATION == 1:
        return task

    def several() -> torch.Tensor:
        for _ in range(CALLS_PER_SYNCHRONISATION):
            result = task()
        _wait()
        return result

    return several


def _wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
