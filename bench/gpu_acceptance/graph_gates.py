"""The step as a CUDA graph: the bits of the uncaptured compiled step, and what must still change from replay to replay.

In a rehearsal there is no capture; the step runs through the pass-through that stands for it on the CPU.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.gpu_acceptance.inputs import training_images
from bench.gpu_acceptance.networks import (
    RATE,
    batches,
    deterministic,
    differing,
    state_of,
    train,
    training_step,
    update_difference,
)
from bench.gpu_acceptance.records import Notes, Recorder, require
from bench.gpu_acceptance.setting import Setting
from dat_engine.data import Augmentation, Batch, ResidentLoader, prefetched
from dat_engine.step.graph import GraphedStep
from dat_engine.step.optimizers import set_learning_rate
from dat_engine.step.training_step import TrainingStep

STEPS = 6
RATES = [RATE, RATE / 2, 0.0, RATE, RATE / 4, RATE]
CHECKS: dict[str, Callable[[Setting, Notes], None]] = {}


def run(setting: Setting, record: Recorder) -> None:
    deterministic()
    for name, check in CHECKS.items():
        if setting.in_time(record, f"graph: {name}", seconds=10.0):
            torch._dynamo.reset()  # each check compiles afresh, far from the limit on recompilations
            with record.gate(f"graph: {name}") as notes:
                check(setting, notes)


def compiled_step(setting: Setting, **options: Any) -> TrainingStep:
    """Compiled on a GPU; tracing many steps would make a rehearsal long."""
    return training_step(setting, compiled=not setting.rehearsal, **options)


def graphed(step: TrainingStep, setting: Setting, first: Batch) -> GraphedStep:
    """`step` behind a graph that is captured already; a capture that falls back is an error here."""
    execute = GraphedStep(step)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*cannot be captured.*")
        execute._prepare(first)
        execute._tried = True
    require(execute.captured, "the step was not captured")
    return execute


def _check(name: str) -> Callable[[Callable[[Setting, Notes], None]], Callable[[Setting, Notes], None]]:
    def register(check: Callable[[Setting, Notes], None]) -> Callable[[Setting, Notes], None]:
        CHECKS[name] = check
        return check

    return register


def _same_as_uncaptured(setting: Setting, notes: Notes, **options: str) -> None:
    given = batches(setting, STEPS)
    runs = []
    for _ in range(2):
        step = compiled_step(setting, **options)
        runs.append((train(step, step, given, RATES), state_of(step), step.generator.get_state()))
    step = compiled_step(setting, **options)
    before = state_of(step)
    losses = train(step, graphed(step, setting, given[0]), given, RATES)
    after, (expected, state, random_state) = state_of(step), runs[0]
    require(torch.equal(step.generator.get_state(), random_state), "the generator is at another place than uncaptured")
    if runs[0][0] == runs[1][0] and not differing(state, runs[1][1]):
        require(losses == expected, f"losses {losses} and uncaptured {expected}")
        changed = differing(state, after)
        require(not changed, f"{len(changed)} tensors differ, {', '.join(changed[:3])} among them")
        notes.text = "bit for bit"
        return
    spread = update_difference(before, state, runs[1][1])
    difference = update_difference(before, state, after)
    require(
        difference <= 2 * spread + 1e-6, f"movement differs by {difference:.1e}, two uncaptured runs by {spread:.1e}"
    )
    notes.text = f"uncaptured runs differ among themselves by {spread:.1e}, the captured one by {difference:.1e}"


@_check("captured = compiled, bf16, grouped")
def _grouped(setting: Setting, notes: Notes) -> None:
    _same_as_uncaptured(setting, notes, precision="bf16", branching="grouped")


@_check("captured = compiled, bf16, folded on parallel branches")
def _folded(setting: Setting, notes: Notes) -> None:
    _same_as_uncaptured(setting, notes, precision="bf16", branching="folded")


@_check("captured = compiled, fp16 with its loss scale")
def _fp16(setting: Setting, notes: Notes) -> None:
    _same_as_uncaptured(setting, notes, precision="fp16", branching="grouped")


@_check("captured = compiled, float32, both players in turn")
def _alternating(setting: Setting, notes: Notes) -> None:
    _same_as_uncaptured(setting, notes, branching="grouped", update="alternating")


@_check("captured = compiled, PGD-AT")
def _pgd_at(setting: Setting, notes: Notes) -> None:
    _same_as_uncaptured(setting, notes, precision="bf16", method="pgd-at")


@_check("capturing changes nothing, and nothing is compiled after it")
def _leaves_everything(setting: Setting, notes: Notes) -> None:
    from torch._dynamo.utils import counters

    counters.clear()
    step, twin = (training_step(setting, precision="bf16", compiled=True) for _ in range(2))
    (batch,) = batches(setting, 1)
    execute = graphed(step, setting, batch)
    changed = differing(state_of(twin), state_of(step))
    require(not changed, f"capturing changed {', '.join(changed[:3])}")
    require(torch.equal(step.generator.get_state(), twin.generator.get_state()), "capturing moved the generator")
    require(step.guard.total_skipped == 0, "capturing counted skipped steps")
    graphs = counters["stats"]["unique_graphs"]
    train(step, execute, [batch] * 3, RATES[:3])
    require(counters["stats"]["unique_graphs"] == graphs, "something was compiled after the capture")
    notes.text = f"{graphs} graphs compiled"


@_check("random numbers differ between replays and come again with the seed")
def _random(setting: Setting, notes: Notes) -> None:
    (batch,) = batches(setting, 1)
    losses = []
    for seed in (7, 7, 8):
        step = compiled_step(setting, precision="bf16", seed=seed)
        losses.append(train(step, graphed(step, setting, batch), [batch] * 4, [0.0] * 4))
    require(len(set(losses[0])) == 4, f"four replays on one batch at rate 0 gave the losses {losses[0]}")
    require(losses[0][0] == losses[1][0], "the same seed gave other numbers")
    require(losses[0][0] != losses[2][0], "another seed gave the same numbers")


@_check("the learning rate is followed")
def _schedule(setting: Setting, notes: Notes) -> None:
    step = compiled_step(setting, precision="bf16")
    given = batches(setting, 2)
    execute = graphed(step, setting, given[0])
    weights = {name: value.clone() for name, value in step.model.named_parameters()}
    train(step, execute, given[:1], [0.0])
    moved = [name for name, value in step.model.named_parameters() if not torch.equal(value, weights[name])]
    require(not moved, f"at rate 0 {len(moved)} weights moved")
    train(step, execute, given[1:], [RATE])
    still = [name for name, value in step.model.named_parameters() if torch.equal(value, weights[name])]
    require(not still, f"at rate {RATE} {', '.join(still[:3])} did not move")


@_check("a step that is not finite changes nothing, and the next one goes on")
def _nonfinite(setting: Setting, notes: Notes) -> None:
    step = compiled_step(setting, precision="bf16")
    good, bad, after = batches(setting, 3)
    execute = graphed(step, setting, good)
    train(step, execute, [good], [RATE])
    before = state_of(step)
    images = bad.images.clone()
    images[0, 0, 0, 0] = math.nan
    metrics = execute(replace(bad, images=images))
    require(bool(metrics["skipped"]), "one NaN in a batch was not noticed")
    changed = differing(before, state_of(step))
    require(not changed, f"the skipped step changed {', '.join(changed[:3])}")
    require(not bool(execute(after)["skipped"]), "the step after it was skipped too")
    require(differing(before, state_of(step)), "the step after it changed nothing")
    require(step.guard.total_skipped == 1, f"{step.guard.total_skipped} skipped steps were counted")


@_check("resumed = uninterrupted, into a new graph and into one that is captured already")
def _resumed(setting: Setting, notes: Notes) -> None:
    given = batches(setting, STEPS)
    options = {"precision": "bf16"}
    whole = compiled_step(setting, **options)
    expected = train(whole, graphed(whole, setting, given[0]), given, RATES)
    first = compiled_step(setting, **options)
    train(first, graphed(first, setting, given[0]), given[:3], RATES[:3])
    saved = first.snapshot()
    fresh = compiled_step(setting, seed=99, **options)
    fresh.load_state_dict(saved)
    used = compiled_step(setting, seed=98, **options)
    execute = graphed(used, setting, given[0])
    train(used, execute, given[3:4], [RATE])
    used.load_state_dict(saved)
    for step, through in ((fresh, graphed(fresh, setting, given[0])), (used, execute)):
        losses = train(step, through, given[3:], RATES[3:])
        changed = differing(state_of(whole), state_of(step))
        worst = max(abs(a / b - 1) for a, b in zip(losses, expected[3:], strict=True))
        notes.text = "bit for bit" if not changed else f"losses within {worst:.1e}, {len(changed)} tensors differ"
        require(not changed or worst < 1e-2, f"losses {losses} and uninterrupted {expected[3:]}")


@_check("no wait for the device inside an epoch of the resident loader")
def _no_wait(setting: Setting, notes: Notes) -> None:
    loader = ResidentLoader(
        training_images(setting),
        batch_size=setting.pick(128, 4),
        augmentation=Augmentation(padding=4, flip=True),
        seed=0,
        device=setting.device,
    )
    step = compiled_step(setting, precision="bf16")
    execute = graphed(step, setting, next(loader.epoch(0)))
    sums: dict[str, Tensor] = {}
    steps = 0
    with _waiting_is_an_error(setting):
        for batch in prefetched(loader.epoch(1), setting.device):
            set_learning_rate(step.optimizer, RATE)
            for name, value in execute(batch).items():
                sums[name] = sums[name] + value.double() if name in sums else value.double()
            steps += 1
    require(steps == loader.steps_per_epoch, f"{steps} of {loader.steps_per_epoch} steps")
    require(math.isfinite(float(sums["loss"])), "the epoch's loss is not finite")
    notes.text = f"{steps} steps, mean loss {float(sums['loss']) / steps:.3f}"


@contextmanager
def _waiting_is_an_error(setting: Setting) -> Iterator[None]:
    if setting.rehearsal:
        with nullcontext():
            yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
