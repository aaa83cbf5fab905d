"""CPU kernels against eager PyTorch, as ratios of times in one process. Prints Markdown. The source of quoted ratios.

    python -m bench.kernels_cpu [--repeats 15] [--calls 8]

One row per case of `bench.kernel_cases`. The subjects take turns; each turn calls one of them several times after
one call that is not counted, so that no one pays for the memory another has just returned; the median turn counts.
Ratios are against the row's first formulation. A kernel with a wrong result gets no ratio and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch

from bench.freed_memory import keep_freed_memory
from bench.kernel_cases import CASES, Case, Task
from dat_kernels import available_backends

DEVICE = torch.device("cpu")


def milliseconds(tasks: dict[str, Task], repeats: int, calls: int) -> dict[str, float]:
    """Median over the turns of a call's time."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            task()
            begin = time.perf_counter()
            for _ in range(calls):
                task()
            times[name].append((time.perf_counter() - begin) / calls * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def report(case: Case, repeats: int, calls: int) -> bool:
    """Print one table row; False where a subject's result is wrong."""
    problem = case.problem(DEVICE)
    names = [*case.eager, *(f"native{layout}" for layout in case.layouts)]
    tasks = {name: problem.task(name) for name in names}
    faults = {name: fault for name, task in tasks.items() if (fault := problem.fault(name, task()))}
    times = milliseconds({name: task for name, task in tasks.items() if name not in faults}, repeats, calls)
    first = times.get(names[0])
    cells = [f"{name}: {first / times[name]:.1f}x" for name in names[1:] if first and name in times]
    cells += [f"{name}: WRONG, {fault}" for name, fault in faults.items()]
    print(f"| {case.title} | {names[0]} | {first or float('nan'):.2f} | {', '.join(cells)} |", flush=True)
    return not faults


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--calls", type=int, default=8)
    arguments = parser.parse_args()
    if "native" not in available_backends():
        sys.exit(
            "dat_kernels._native was not built, so there is nothing to measure; install with a C++20 compiler present"
        )
    from dat_kernels import _native

    keep_freed_memory()
    instructions, threads = _native.current_instruction_set(), torch.get_num_threads()
    print(f"{threads} threads, {instructions}, torch {torch.__version__}\n")
    print("| task | first formulation | ms | against it |\n|---|---|---|---|")
    cases = [case for case in CASES if not case.cuda_only]
    correct = [report(case, arguments.repeats, arguments.calls) for case in cases]
    sys.exit(0 if all(correct) else 1)


if __name__ == "__main__":
    main()
