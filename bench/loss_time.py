"""Would a fused loss pay? L_DAT with its gradient and the attack's gradient to the logits, as a share of the step.

    python -m bench.loss_time [--classes 10 100] [--step-batch 128]

Subjects take turns in one process and the median counts. "floor" is a custom operation that computes nothing: registered,
dispatched and differentiated as this project's kernels are, it returns memory of the right shapes, so no fused loss in
`kernels` can be faster. The step is the engine's DAT step (ResNet-18, bf16), timed in the same process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.step_time import random_data
from dat.losses import dat_loss, soft_target_ascent
from dat.profiling.subjects import engine_subject
from dat.recipes import recipe
from dat_engine.model.precision import Precision

BATCH, ATTACK_STEPS, TURNS, CALLS = 128, 5, 21, 40
Task = Callable[[], object]


@torch.library.custom_op("dat_bench::no_loss", mutates_args=())
def no_loss(clean: Tensor, adversarial: Tensor, mixed: Tensor, mixed_adversarial: Tensor, targets: Tensor) -> Tensor:
    return clean.new_empty(())


@no_loss.register_fake
def _(clean: Tensor, *others: Any) -> Tensor:
    return clean.new_empty(())


def _keep_logits(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])


def _empty_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*(torch.empty_like(logits) for logits in ctx.saved_tensors), None)


no_loss.register_autograd(_empty_gradients, setup_context=_keep_logits)


@torch.library.custom_op("dat_bench::no_ascent", mutates_args=())
def no_ascent(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.empty_like(logits)


def published_loss(
    clean: Tensor, adversarial: Tensor, mixed: Tensor, mixed_adversarial: Tensor, targets: Tensor
) -> Tensor:
    return dat_loss(
        clean, adversarial, mixed, mixed_adversarial, targets, beta=15.0, omega=2.0, label_smoothing=0.5
    )  # fmt: skip


def ascent(logits: Tensor, targets: Tensor) -> Tensor:
    return soft_target_ascent(targets)(logits)


def loss_tasks(classes: int, device: torch.device) -> dict[str, Task]:
    logits = [torch.randn(BATCH, classes, device=device, requires_grad=True) for _ in range(4)]
    targets = torch.randint(0, classes, (BATCH,), device=device)

    def differentiate(loss: Callable[..., Tensor]) -> Task:
        return lambda: torch.autograd.grad(loss(*logits, targets), logits)

    compiled = torch.compile(published_loss, fullgraph=True, dynamic=False)
    expected, found = differentiate(published_loss)(), differentiate(compiled)()
    torch.testing.assert_close(found, expected)
    return {
        "eager": differentiate(published_loss),
        "torch.compile": differentiate(compiled),
        "floor": differentiate(no_loss),
    }


def ascent_tasks(classes: int, device: torch.device) -> dict[str, Task]:
    """Both branches are attacked in one pass: 2 x BATCH rows."""
    logits, targets = torch.randn(2, 2 * BATCH, classes, device=device).softmax(2).unbind()
    compiled = torch.compile(ascent, fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(logits, targets), ascent(logits, targets))
    return {
        "eager": lambda: ascent(logits, targets),
        "torch.compile": lambda: compiled(logits, targets),
        "floor": lambda: no_ascent(logits, targets),
    }


def microseconds(tasks: dict[str, Task], device: torch.device) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(TURNS):
        for name, task in tasks.items():
            task()
            times[name].append(seconds_of(task, CALLS, device) / CALLS * 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


def step_microseconds(batch: int, device: torch.device) -> float:
    """One DAT step at `batch`, scaled to `BATCH`."""
    precision = Precision(name="bf16", channels_last=True)
    values = replace(recipe("cifar10-resnet18"), batch_size=batch, precision=precision)
    subject = engine_subject(values, random_data, device).subject
    data = next(subject.batches)
    return statistics.median(seconds_of(lambda: subject.step(data), 1, device) for _ in range(3)) * BATCH / batch * 1e6


def seconds_of(task: Task, calls: int, device: torch.device) -> float:
    _wait(device)
    begin = time.perf_counter()
    for _ in range(calls):
        task()
    _wait(device)
    return time.perf_counter() - begin


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--step-batch", type=int, default=BATCH, help="batch of the timed step, scaled to 128")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    rows = {}
    for classes in arguments.classes:
        rows[f"L_DAT and its gradient, 4 x [{BATCH}, {classes}]"] = 1, microseconds(loss_tasks(classes, device), device)
        rows[f"softmax - targets, [{2 * BATCH}, {classes}]"] = (
            ATTACK_STEPS,
            microseconds(ascent_tasks(classes, device), device),
        )
    step = step_microseconds(arguments.step_batch, device)
    print(
        f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}; DAT step of {BATCH}: {step / 1e6:.3g} s\n"
    )
    print("| loss | calls a step | eager, us | torch.compile, us | floor, us | eager's share of the step |")
    print("|---|---|---|---|---|---|")
    for title, (calls, times) in rows.items():
        cells = " | ".join(f"{value:.0f}" for value in times.values())
        print(f"| {title} | {calls} | {cells} | {calls * times['eager'] / step:.4%} |")


if __name__ == "__main__":
    main()
