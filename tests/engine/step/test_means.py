"""Sums of a step's scalars: the values of one addition per scalar, in one addition for all."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dat_engine.distributed import ONE_PROCESS
from dat_engine.step.means import StepMeans, StepMetrics


def steps(device: torch.device | str = "cpu") -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    made = [
        {"loss": torch.rand((), generator=generator), "accuracy": torch.rand((), generator=generator)} for _ in range(9)
    ]
    for index, metrics in enumerate(made):
        metrics["skipped"] = torch.tensor(float(index in (2, 5)))
    made[2]["loss"] = torch.tensor(math.nan)
    made[5]["loss"] = torch.tensor(math.inf)
    return [{name: value.to(device) for name, value in metrics.items()} for metrics in made]


def test_means_are_those_of_one_sum_for_each_scalar(device):
    means = StepMeans()
    for metrics in steps(device):
        means.add(StepMetrics(metrics))
    good = [metrics for metrics in steps() if not metrics["skipped"]]
    expected = {name: sum(float(metrics[name]) for metrics in good) / 7 for name in ("loss", "accuracy")}
    assert means.means(ONE_PROCESS) == {**expected, "skipped": 2 / 9}


def test_sums_go_on_from_saved_ones_in_any_order_and_from_plain_metrics():
    whole, first = StepMeans(), StepMeans()
    for metrics in steps():
        whole.add(metrics)
    for metrics in steps()[:4]:
        first.add(metrics)
    second = StepMeans(dict(sorted(first.sums.items())))
    for metrics in steps()[4:]:
        second.add(StepMetrics(metrics))
    assert second.means(ONE_PROCESS) == whole.means(ONE_PROCESS)
    assert StepMeans().sums == {}


def test_what_a_captured_step_overwrites_is_not_held():
    metrics = StepMetrics(steps()[0])
    means = StepMeans()
    means.add(metrics)
    before = means.means(ONE_PROCESS)
    metrics.summands.fill_(7.0)
    assert means.means(ONE_PROCESS) == before


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


def test_after_a_step_one_addition_is_left(device):
    means = StepMeans()
    made = [StepMetrics(metrics) for metrics in steps(device)]
    means.add(made[0])
    with Operations() as operations:
        means.add(made[1])
    assert operations.seen == ["aten.add_.Tensor"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_keep_their_precision(dtype):
    value = torch.tensor(1 / 3, dtype=dtype)
    metrics = StepMetrics({"loss": value, "skipped": torch.zeros(())})
    means = StepMeans()
    means.add(metrics)
    assert means.means(ONE_PROCESS)["loss"] == float(value)
