"""A capture that fails: one warning that names the cause, the uncaptured step's numbers, and memory that does not grow."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from bench.gpu_acceptance.inputs import training_images
from bench.gpu_acceptance.networks import RATE, batches, deterministic, differing, state_of, train, training_step
from bench.gpu_acceptance.records import Recorder, require
from bench.gpu_acceptance.setting import Setting
from dat_engine.data import Augmentation, ResidentLoader, prefetched
from dat_engine.step.graph import GraphedStep, pass_through
from dat_engine.step.training_step import TrainingStep

GROWTH = 64 << 20
"""Bytes by which the allocator's active memory may differ after 59 steps: a few batches of 12 MB, far from one per step."""


def run(setting: Setting, record: Recorder) -> None:
    deterministic()
    step, twin = (training_step(setting, branching="folded") for _ in range(2))
    execute = failing(step, setting)
    given, rates = batches(setting, 3), [RATE] * 3
    with record.gate("capture failure: one warning, and the numbers of the uncaptured step"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            losses = train(step, execute, given, rates)
        messages = [str(warning.message) for warning in caught if "cannot be captured" in str(warning.message)]
        require(len(messages) == 1, f"{len(messages)} warnings")
        require(not execute.captured, "the capture did not fail: this gate has lost its point")
        expected = train(twin, twin, given, rates)
        require(losses == expected, f"losses {losses} and uncaptured {expected}")
        require(not differing(state_of(twin), state_of(step)), "weights differ from those of the uncaptured step")
    with record.gate("capture failure: random numbers outside the step can still be drawn"):
        require(torch.randn(4, device=setting.device).isfinite().all(), "the default generator gives no numbers")
    with record.gate("capture failure: memory does not grow with the steps that follow") as notes:
        notes.text = _memory_stays(execute, setting)
    with record.gate("capture failure: a step made afterwards is captured"):
        later = training_step(setting)
        again = GraphedStep(later)
        train(later, again, given, rates)
        require(again.captured, "a second capture in this process failed too")


def failing(step: TrainingStep, setting: Setting) -> GraphedStep:
    """`step` behind a graph whose capture meets a read by the host, after work on both of its streams."""
    if setting.rehearsal:
        return GraphedStep(step, capture=_failing_stand_in)
    attack_model = step.attack_model
    assert attack_model is not None
    plain: Callable[..., Tensor] = attack_model.logits

    def reading(images: Tensor, layout: tuple[str, ...] = ("base",)) -> Tensor:
        logits = plain(images, layout)
        if len(layout) > 1 and torch.cuda.is_current_stream_capturing():
            float(logits.sum())
        return logits

    attack_model.logits = reading  # type: ignore[method-assign]
    return GraphedStep(step)


def _failing_stand_in(function: Callable[[], dict[str, Tensor]], step: TrainingStep) -> Callable[[], dict[str, Tensor]]:
    pass_through(function, step)
    raise RuntimeError("operation not permitted when stream is capturing")


def _memory_stays(execute: GraphedStep, setting: Setting) -> str:
    loader = ResidentLoader(
        training_images(setting),
        batch_size=setting.pick(512, 4),
        augmentation=Augmentation(padding=4, flip=True),
        seed=0,
        device=setting.device,
    )
    active: list[int] = []
    for index, batch in enumerate(prefetched(loader.epoch(0), setting.device)):
        execute(batch)
        if setting.rehearsal or index == 80:
            break
        if index in (20, 79):
            torch.cuda.synchronize()
            active.append(torch.cuda.memory_stats()["active_bytes.all.current"])
    if setting.rehearsal:
        return "not measured"
    require(active[1] - active[0] < GROWTH, f"active memory grew by {active[1] - active[0]} bytes in 59 steps")
    return f"{active[1] - active[0]} bytes in 59 steps"
