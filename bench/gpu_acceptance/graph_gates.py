"""The step as a CUDA graph: the bits of the uncaptured compiled step, and what must still change from replay to replay.

In a rehearsal there is no capture; the step runs through the pass-through that stands for it on the CPU.
"""

from __future__ import annotations

import gc
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
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
from bench.gpu_acceptance.waiting import waiting_is_an_error
from dat_engine.data import Augmentation, Batch, ResidentLoader, prefetched
from dat_engine.step.awp import AdversarialWeightPerturbation
from dat_engine.step.graph import GraphedStep
from dat_engine.step.optimizers import set_learning_rate
from dat_engine.step.training_step import TrainingStep
from dat_engine.step.weight_settings import EMASettings

STEPS = 6
RATES = [RATE, RATE / 2, 0.0, RATE, RATE / 4, RATE]
MAIN: dict[str, Any] = {"precision": "bf16", "branching": "grouped"}
"""As the headline's step is run: one such step serves every gate that is not about another way of running it."""
SAME_AS_UNCAPTURED: dict[str, dict[str, Any]] = {
    "captured = compiled, bf16, folded on parallel branches": {"precision": "bf16", "branching": "folded"},
    "captured = compiled, PGD-AT": {"precision": "bf16", "method": "pgd-at"},
    "captured = compiled, fp16 with its loss scale": {"precision": "fp16", "branching": "grouped"},
    "captured = compiled, float32, both players in turn, weights perturbed and averaged": {
        "branching": "grouped",
        "update": "alternating",
        "weight_perturbation": AdversarialWeightPerturbation(0.005),
        "ema": EMASettings(decay=0.9),
    },
}


@dataclass(slots=True)
class Stand:
    """One compiled step, where it began, and (once it has been asked for) its graph.

    Every gate begins with `begin`: weights, statistics, momenta, random numbers, loss scale and counters are then those of
    the new step, so that a gate that fails leaves nothing to the next.
    """

    step: TrainingStep
    start: dict[str, Any]
    first: Batch
    execute: GraphedStep | None = None

    @classmethod
    def build(cls, setting: Setting, *, compiled: bool, **options: Any) -> Stand:
        step = training_step(setting, compiled=compiled, **options)
        return cls(step=step, start=step.snapshot(), first=batches(setting, 1)[0])

    def begin(self) -> TrainingStep:
        self.step.restore(self.start)
        return self.step

    def graph(self) -> GraphedStep:
        """The step's one graph; capturing leaves the step as it found it."""
        if self.execute is None:
            self.execute = graphed(self.step, self.first)
        return self.execute


Check = Callable[[Stand, Setting, Notes], None]
CHECKS: dict[str, Check] = {}


def run(setting: Setting, record: Recorder) -> None:
    deterministic()
    stand: Stand | None = None
    with record.gate("graph: the step can be built"):
        stand = Stand.build(setting, compiled=True, **MAIN)
    for name, check in CHECKS.items():
        if stand is not None and setting.in_time(record, f"graph: {name}", seconds=10.0):
            with record.gate(f"graph: {name}") as notes:
                check(stand, setting, notes)
    stand = None
    for name, options in SAME_AS_UNCAPTURED.items():
        if setting.in_time(record, f"graph: {name}", seconds=20.0):
            gc.collect()
            torch._dynamo.reset()  # another step, far from the limit on recompilations; the one before is done
            with record.gate(f"graph: {name}") as notes:
                # tracing every way would make a rehearsal long
                same_as_uncaptured(Stand.build(setting, compiled=not setting.rehearsal, **options), setting, notes)


def graphed(step: TrainingStep, first: Batch) -> GraphedStep:
    """`step` behind a graph that is captured already; a capture that falls back is an error here."""
    execute = GraphedStep(step)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*cannot be captured.*")
        execute._prepare(first)
        execute._tried = True
    require(execute.captured, "the step was not captured")
    return execute


def _check(name: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        CHECKS[name] = check
        return check

    return register


@_check("capturing changes nothing, and nothing is compiled after it")
def leaves_everything(stand: Stand, setting: Setting, notes: Notes) -> None:
    """Comes first: nothing has been captured yet."""
    from torch._dynamo.utils import counters

    counters.clear()
    step = stand.begin()
    before, random_state = state_of(step), step.generator.get_state()
    execute = stand.graph()
    changed = differing(before, state_of(step))
    require(not changed, f"capturing changed {', '.join(changed[:3])}")
    require(torch.equal(step.generator.get_state(), random_state), "capturing moved the generator")
    require(step.guard.total_skipped == 0, "capturing counted skipped steps")
    graphs = counters["stats"]["unique_graphs"]
    train(step, execute, [stand.first] * 3, RATES[:3])
    require(counters["stats"]["unique_graphs"] == graphs, "something was compiled after the capture")
    notes.text = f"{graphs} graphs compiled"


@_check("captured = compiled, bf16, grouped")
def same_as_uncaptured(stand: Stand, setting: Setting, notes: Notes) -> None:
    """Twice uncaptured and once as a graph, each time from the same beginning."""
    given = batches(setting, STEPS)
    step = stand.begin()
    before, runs = state_of(step), []
    for _ in range(2):
        stand.begin()
        runs.append((train(step, step, given, RATES), state_of(step), step.generator.get_state()))
    stand.begin()
    losses = train(step, stand.graph(), given, RATES)
    after, (expected, state, random_state) = state_of(step), runs[0]
    require(differing(before, after), "the graph trains nothing")
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


@_check("random numbers differ between replays and come again with the seed")
def random_numbers(stand: Stand, setting: Setting, notes: Notes) -> None:
    execute = stand.graph()
    losses = []
    for seed in (7, 7, 8):
        step = stand.begin()
        step.generator.manual_seed(seed)
        losses.append(train(step, execute, [stand.first] * 4, [0.0] * 4))
    require(len(set(losses[0])) == 4, f"four replays on one batch at rate 0 gave the losses {losses[0]}")
    require(losses[0][0] == losses[1][0], "the same seed gave other numbers")
    require(losses[0][0] != losses[2][0], "another seed gave the same numbers")


@_check("the learning rate is followed")
def schedule(stand: Stand, setting: Setting, notes: Notes) -> None:
    step, execute, given = stand.begin(), stand.graph(), batches(setting, 2)
    weights = {name: value.clone() for name, value in step.model.named_parameters()}
    train(step, execute, given[:1], [0.0])
    moved = [name for name, value in step.model.named_parameters() if not torch.equal(value, weights[name])]
    require(not moved, f"at rate 0 {len(moved)} weights moved")
    train(step, execute, given[1:], [RATE])
    still = [name for name, value in step.model.named_parameters() if torch.equal(value, weights[name])]
    require(not still, f"at rate {RATE} {', '.join(still[:3])} did not move")


@_check("a step that is not finite changes nothing, and the next one goes on")
def nonfinite(stand: Stand, setting: Setting, notes: Notes) -> None:
    step, execute = stand.begin(), stand.graph()
    good, bad, after = batches(setting, 3)
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
def resumed(stand: Stand, setting: Setting, notes: Notes) -> None:
    given, step = batches(setting, STEPS), stand.begin()
    expected = train(step, stand.graph(), given, RATES)
    whole = state_of(step)
    stand.begin()
    train(step, stand.graph(), given[:3], RATES[:3])
    saved = step.snapshot()
    texts = []
    for through in ("the same graph", "a new graph"):
        if through == "a new graph":
            stand.begin()
            execute = graphed(step, stand.first)
        else:
            execute = stand.graph()
            step.generator.manual_seed(99)
            train(step, execute, given[3:4], [RATE])
        step.load_state_dict(saved)
        losses = train(step, execute, given[3:], RATES[3:])
        changed = differing(whole, state_of(step))
        worst = max(abs(a / b - 1) for a, b in zip(losses, expected[3:], strict=True))
        text = "bit for bit" if not changed else f"losses within {worst:.1e}, {len(changed)} tensors differ"
        texts.append(f"{through}: {text}")
        require(not changed or worst < 1e-2, f"{through}: losses {losses} and uninterrupted {expected[3:]}")
    notes.text = "; ".join(texts)


@_check("no wait for the device inside an epoch of the resident loader")
def no_wait(stand: Stand, setting: Setting, notes: Notes) -> None:
    step, execute = stand.begin(), stand.graph()
    loader = ResidentLoader(
        training_images(setting),
        batch_size=len(stand.first.images),
        augmentation=Augmentation(padding=4, flip=True),
        seed=0,
        device=setting.device,
    )
    execute(next(loader.epoch(0)))
    sums: dict[str, Tensor] = {}
    steps = 0
    with waiting_is_an_error(setting):
        for batch in prefetched(loader.epoch(1), setting.device):
            set_learning_rate(step.optimizer, RATE)
            for name, value in execute(batch).items():
                sums[name] = sums[name] + value.double() if name in sums else value.double()
            steps += 1
    require(steps == loader.steps_per_epoch, f"{steps} of {loader.steps_per_epoch} steps")
    require(math.isfinite(float(sums["loss"])), "the epoch's loss is not finite")
    notes.text = f"{steps} steps, mean loss {float(sums['loss']) / steps:.3f}"
