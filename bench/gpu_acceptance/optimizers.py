"""torch's fused SGD and, where it is installed, NVIDIA apex's: right first, then how fast."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from bench.gpu_acceptance.device_timing import seconds_in_graph, seconds_queued
from bench.gpu_acceptance.records import Recorder, require
from bench.gpu_acceptance.setting import Setting
from dat import models
from dat_engine.step.apex_sgd import why_unusable
from dat_engine.step.optimizers import SGDSettings, set_learning_rate, sgd, step_unless

SHAPES = ((64, 3, 3, 3), (10, 512), (128, 64, 1, 1), (64,))
STEPS = ((0.0, 0.1), (1.0, 0.1), (0.0, 0.1), (0.0, 0.05))
"""Whether the step is to be left out, and the learning rate."""


def run(setting: Setting, record: Recorder) -> None:
    for implementation in ("torch", "apex"):
        gate = f"optimizer: {implementation}'s fused SGD = SGD in float64"
        reason = why_unusable() if implementation == "apex" else None
        if reason is None and implementation == "apex" and setting.rehearsal:
            reason = "it works on a GPU only"
        if reason is not None:
            record.skipped(gate, reason)
            continue
        with record.gate(gate) as notes:
            notes.text = _check(implementation, setting)
        if implementation == "torch":
            with record.gate("optimizer: torch's fused SGD follows rate and skipping inside a graph"):
                _check_captured(setting)
        with record.gate(f"optimizer times: {implementation} could be timed"):
            _time(implementation, setting, record)


def _settings(implementation: Any, nesterov: bool = False) -> SGDSettings:
    return SGDSettings(
        learning_rate=0.1, momentum=0.9, weight_decay=5e-4, nesterov=nesterov, implementation=implementation
    )


def _check(implementation: str, setting: Setting) -> str:
    """Four steps, one of them left out, the rate changed; both directions, both kinds of momentum."""
    worst = 0.0
    for maximize, nesterov in itertools.product((False, True), repeat=2):
        generator = torch.Generator().manual_seed(0)
        start = [torch.randn(shape, generator=generator) for shape in SHAPES]
        weights = [nn.Parameter(_channels_last(tensor.to(setting.device))) for tensor in start]
        exact = [nn.Parameter(tensor.double()) for tensor in start]
        optimizer = sgd(weights, _settings(implementation, nesterov), maximize=maximize)
        reference = torch.optim.SGD(
            exact, lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=nesterov, maximize=maximize, fused=False
        )
        for left_out, rate in STEPS:
            set_learning_rate(optimizer, rate)
            reference.param_groups[0]["lr"] = rate
            for weight, true in zip(weights, exact, strict=True):
                gradient = torch.randn(weight.shape, generator=generator)
                weight.grad = torch.empty_like(weight).copy_(gradient)
                true.grad = gradient.double()
            step_unless(optimizer, torch.tensor(left_out, device=setting.device))
            if not left_out:
                reference.step()
        errors = [float((w.cpu().double() - t).abs().max()) for w, t in zip(weights, exact, strict=True)]
        worst = max(worst, *errors)
    require(worst < 1e-5, f"error {worst:.1e}")
    return f"error {worst:.1e}"


def _check_captured(setting: Setting) -> None:
    if setting.rehearsal:
        return
    weight = nn.Parameter(torch.ones(1000, device=setting.device))
    optimizer = sgd([weight], SGDSettings(learning_rate=0.5, momentum=0.0, weight_decay=0.0))
    weight.grad, found = torch.ones_like(weight), torch.zeros((), device=setting.device)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        step_unless(optimizer, found)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        step_unless(optimizer, found)
    for rate, skip, expected in ((0.25, 0.0, 0.25), (0.25, 1.0, 0.25), (0.125, 0.0, 0.125)):
        set_learning_rate(optimizer, rate)
        found.fill_(skip)
        graph.replay()
        require(bool((weight == expected).all()), f"weights are {float(weight[0])}, not {expected}")


def _time(implementation: str, setting: Setting, record: Recorder) -> None:
    model = models.build("resnet18", num_classes=10, width=setting.pick(64, 4)).to(setting.device)
    weights = list(model.to(memory_format=torch.channels_last).parameters())
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer = sgd(weights, _settings(implementation))
    set_learning_rate(optimizer, 1e-6)
    found = torch.zeros((), device=setting.device)
    needs = (f"optimizer: {implementation}",)

    def step() -> Tensor:
        step_unless(optimizer, found)
        return found

    count = sum(weight.numel() for weight in weights)
    note = f"ResNet-18, {count / 1e6:.1f} million weights"
    seconds = seconds_queued(step, setting)
    record.figure(f"SGD step, {implementation}, launched", 1e6 * seconds, "µs", needs=needs, note=note)
    if implementation == "torch":
        seconds = seconds_in_graph([step], setting, calls=16)
        record.figure("SGD step, torch, in a graph", 1e6 * seconds, "µs", needs=needs, note=note)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
