"""How fast torch's fused SGD is and, where it is installed, NVIDIA apex's; that they are right is a test's business."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.gpu_acceptance.device_timing import seconds_in_graph, seconds_queued
from bench.gpu_acceptance.records import Recorder
from bench.gpu_acceptance.setting import Setting
from dat import models
from dat_engine.step.apex_sgd import why_unusable
from dat_engine.step.optimizers import SGDSettings, set_learning_rate, sgd, step_unless


def run(setting: Setting, record: Recorder) -> None:
    for implementation in ("torch", "apex"):
        gate = f"optimizer times: {implementation} could be timed"
        reason = why_unusable() if implementation == "apex" else None
        if reason is None and implementation == "apex" and setting.rehearsal:
            reason = "it works on a GPU only"
        if reason is not None:
            record.skipped(gate, reason)
            continue
        with record.gate(gate):
            _time(implementation, setting, record)


def _time(implementation: Any, setting: Setting, record: Recorder) -> None:
    model = models.build("resnet18", num_classes=10, width=setting.pick(64, 4)).to(setting.device)
    weights = list(model.to(memory_format=torch.channels_last).parameters())
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer = sgd(weights, SGDSettings(learning_rate=0.1, implementation=implementation))
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
