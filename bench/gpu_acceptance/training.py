"""Accuracy over minutes of training on CIFAR-10: DAT with joint and alternating updates against PGD-AT, each as long."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace
from typing import Any

import torch

from bench.gpu_acceptance.inputs import make_images, training_images
from bench.gpu_acceptance.records import Recorder, require
from bench.gpu_acceptance.setting import Setting
from bench.gpu_acceptance.subjects import DAT_GROUPED, PGD_AT, Way, loader_of, training_step
from dat.evaluation import evaluate
from dat_engine.data import ImageArrays, load, prefetched, take
from dat_engine.step.graph import GraphedStep
from dat_engine.step.optimizers import set_learning_rate

RATE = 0.05
WARM_UP = 0.05
"""Share of the time in which the rate rises; it then falls to 0 in a straight line."""
LOOKS = 6
TEST_IMAGES = 1000
RUNS: dict[str, tuple[Way, str | None]] = {
    "DAT, joint": (DAT_GROUPED, "joint"),
    "PGD-AT": (PGD_AT, None),
    "DAT, alternating": (DAT_GROUPED, "alternating"),
}


def run(setting: Setting, record: Recorder) -> None:
    reason = why_not(setting)
    for name in RUNS:
        gate = f"training: {name} learns"
        if reason is not None:
            record.skipped(gate, reason)
        elif setting.in_time(record, gate, seconds=setting.pick(60 * setting.train_minutes + 30, 0.0)):
            with record.gate(gate) as notes:
                notes.text = _train(name, setting, record)


def why_not(setting: Setting) -> str | None:
    if setting.rehearsal:
        return None
    if setting.data_root is None:
        return "it needs CIFAR-10: --data-root"
    return None if setting.train_minutes > 0 else "it takes minutes: --train-minutes says how many per method"


def _train(name: str, setting: Setting, record: Recorder) -> str:
    """Trains, and looks at accuracy at equal shares of the time, which does not count the looks."""
    way, update = RUNS[name]
    way = setting.pick(way, replace(way, execution="eager"))  # tracing would make a rehearsal long
    arrays, test = training_images(setting), _test_images(setting)
    step = training_step(way, arrays, setting, update=update)
    execute, loader = GraphedStep(step), loader_of(arrays, setting)
    execute(next(loader.epoch(0)))  # compiles and captures before the clock starts
    total = setting.pick(60 * setting.train_minutes, 1.0)
    curve: list[dict[str, Any]] = []
    spent, steps, started = 0.0, 0, time.perf_counter()
    looks = [total * (index + 1) / LOOKS for index in range(LOOKS)] if not setting.rehearsal else [0.0]
    for epoch in itertools.count():
        for batch in prefetched(loader.epoch(epoch), setting.device):
            set_learning_rate(step.optimizer, RATE * rate_factor(spent / total))
            metrics = execute(batch)
            steps += 1
            if steps % 20 == 0 or setting.rehearsal:
                loss = float(metrics["loss"])  # waits: the clock below is the device's
                require(math.isfinite(loss), f"the loss is {loss} after {steps} steps")
                spent = time.perf_counter() - started
            if looks and spent >= looks[0]:
                looks.pop(0)
                before = time.perf_counter()
                curve.append({"seconds": round(spent, 2), "steps": steps, **_accuracy(step.evaluated_model, test)})
                record.detail(f"training: {name}", curve)
                started += time.perf_counter() - before
            if not looks:
                break
        if not looks:
            break
    last = curve[-1]
    for attack in ("natural", "pgd20"):
        figure = f"training: {name}, {total / 60:.2g} min, {attack}"
        note = f"{steps} steps of 128, {len(test)} test images"
        record.figure(figure, last[attack], "%", needs=(f"training: {name} learns",), note=note)
    if not setting.rehearsal:
        require(last["natural"] > 15, f"natural accuracy is {last['natural']:.1f} % after {total / 60:.2g} min")
    return f"natural {last['natural']:.1f} %, PGD-20 {last['pgd20']:.1f} %"


def rate_factor(share: float) -> float:
    """Factor on the rate after this share of the time: up in a straight line, then down to 0."""
    share = min(max(share, 0.0), 1.0)
    return share / WARM_UP if share < WARM_UP else (1 - share) / (1 - WARM_UP)


def _test_images(setting: Setting) -> ImageArrays:
    if setting.rehearsal or setting.data_root is None:
        images = make_images("one_over_f", (4, 3, 16, 16), seed=5).mul(255).round().to(torch.uint8)
        names = tuple(f"class {index}" for index in range(10))
        return ImageArrays(images=images, targets=torch.arange(4), class_names=names)
    test = take(load("cifar10", root=setting.data_root, split="test", download=False), TEST_IMAGES, seed=0)
    assert isinstance(test, ImageArrays)
    return test


def _accuracy(model: torch.nn.Module, test: ImageArrays) -> dict[str, float]:
    found = evaluate(model, test, ("natural", "pgd20"), epsilon=8 / 255, batch_size=250)
    return {name: float(found[name]) for name in ("natural", "pgd20")}
