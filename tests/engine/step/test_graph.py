"""The step behind its graph: the bits of the uncaptured step, and what must still change from replay to replay.

On a GPU the step is compiled and captured; on the CPU it runs uncompiled through the pass-through that stands for a capture.
"""

from __future__ import annotations

import gc
import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dat_engine.data import Augmentation, Batch, ImageArrays, ResidentLoader, prefetched
from dat_engine.step.awp import AdversarialWeightPerturbation
from dat_engine.step.graph import GraphedStep
from dat_engine.step.optimizers import set_learning_rate
from dat_engine.step.training_step import TrainingStep
from dat_engine.step.weight_settings import EMASettings
from tests.engine.step.whole_steps import (
    CLASSES,
    RATE,
    batches,
    differing,
    image_shape,
    on_gpu,
    state_of,
    train,
    training_step,
    update_difference,
)
from tests.host_waits import waiting_is_an_error

pytestmark = pytest.mark.usefixtures("repeatable_convolutions")

RATES = [RATE, RATE / 2, 0.0, RATE, RATE / 4, RATE]
MAIN: dict[str, Any] = {"precision": "bf16", "branching": "grouped"}
"""As the headline's step is run: one such step serves every test that is not about another way of running it."""
OTHER_WAYS: dict[str, dict[str, Any]] = {
    "bf16, folded on parallel branches": {"precision": "bf16", "branching": "folded"},
    "PGD-AT": {"precision": "bf16", "method": "pgd-at"},
    "fp16 with its loss scale": {"precision": "fp16", "branching": "grouped"},
    "float32, both players in turn, weights perturbed and averaged": {
        "branching": "grouped",
        "update": "alternating",
        "weight_perturbation": AdversarialWeightPerturbation(0.005),
        "ema": EMASettings(decay=0.9),
    },
}


@dataclass(slots=True)
class Stand:
    """One step, where it began, and (once it has been asked for) its graph.

    Every test begins with `begin`: weights, statistics, momenta, random numbers, loss scale and counters are then those of
    the new step, so that a test that fails leaves nothing to the next.
    """

    device: torch.device
    step: TrainingStep
    start: dict[str, Any]
    first: Batch
    execute: GraphedStep | None = None

    @classmethod
    def build(cls, device: torch.device, **options: Any) -> Stand:
        step = training_step(device, compiled=on_gpu(device, True, False), **options)
        return cls(device=device, step=step, start=step.snapshot(), first=batches(device, 1)[0])

    def begin(self) -> TrainingStep:
        self.step.restore(self.start)
        return self.step

    def graph(self) -> GraphedStep:
        """The step's one graph; capturing leaves the step as it found it."""
        if self.execute is None:
            self.execute = graphed(self.step, self.first)
        return self.execute


def graphed(step: TrainingStep, first: Batch) -> GraphedStep:
    """`step` behind a graph that is captured already; a capture that falls back is an error here."""
    execute = GraphedStep(step)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*cannot be captured.*")
        execute._prepare(first)
        execute._tried = True
    assert execute.captured
    return execute


@pytest.fixture(scope="module")
def stand(device):
    return Stand.build(device, **MAIN)


@pytest.mark.gate("graph: capturing changes nothing, and nothing is compiled after it")
def test_capturing_changes_nothing_and_nothing_is_compiled_after_it(stand, record_property):
    """Comes first: where the tests are run in order, nothing has been captured yet."""
    from torch._dynamo.utils import counters

    counters.clear()
    step = stand.begin()
    before, random_state = state_of(step), step.generator.get_state()
    stand.execute = execute = graphed(step, stand.first)
    assert not differing(before, state_of(step))
    assert torch.equal(step.generator.get_state(), random_state)
    assert step.guard.total_skipped == 0
    graphs = counters["stats"]["unique_graphs"]
    train(step, execute, [stand.first] * 3, RATES[:3])
    assert counters["stats"]["unique_graphs"] == graphs
    record_property("note", f"{graphs} graphs compiled")


def same_as_uncaptured(stand: Stand, record_property) -> None:
    """Twice uncaptured and once as a graph, each time from the same beginning."""
    step, rates = stand.begin(), on_gpu(stand.device, RATES, RATES[:3])
    given = batches(stand.device, len(rates))
    before, runs = state_of(step), []
    for _ in range(2):
        stand.begin()
        runs.append((train(step, step, given, rates), state_of(step), step.generator.get_state()))
    stand.begin()
    losses = train(step, stand.graph(), given, rates)
    after, (expected, state, random_state) = state_of(step), runs[0]
    assert differing(before, after), "the graph trains nothing"
    assert torch.equal(step.generator.get_state(), random_state)
    repeats = runs[0][0] == runs[1][0] and not differing(state, runs[1][1])
    assert repeats or stand.device.type == "cuda"
    if repeats:
        assert losses == expected
        assert not differing(state, after)
        record_property("note", "bit for bit")
        return
    spread = update_difference(before, state, runs[1][1])
    difference = update_difference(before, state, after)
    note = f"uncaptured runs differ among themselves by {spread:.1e}, the captured one by {difference:.1e}"
    assert difference <= 2 * spread + 1e-6, note
    record_property("note", note)


@pytest.mark.gate("graph: captured = compiled, bf16, grouped")
def test_the_graph_has_the_bits_of_the_uncaptured_step(stand, record_property):
    same_as_uncaptured(stand, record_property)


@pytest.mark.gate("graph: random numbers differ between replays and come again with the seed")
def test_random_numbers_differ_between_replays_and_come_again_with_the_seed(stand):
    execute, losses = stand.graph(), []
    for seed in (7, 7, 8):
        step = stand.begin()
        step.generator.manual_seed(seed)
        losses.append(train(step, execute, [stand.first] * 4, [0.0] * 4))
    assert len(set(losses[0])) == 4
    assert losses[0][0] == losses[1][0] != losses[2][0]


@pytest.mark.gate("graph: the learning rate is followed")
def test_the_learning_rate_is_followed(stand):
    step, execute, given = stand.begin(), stand.graph(), batches(stand.device, 2)
    weights = {name: value.clone() for name, value in step.model.named_parameters()}
    train(step, execute, given[:1], [0.0])
    assert not [name for name, value in step.model.named_parameters() if not torch.equal(value, weights[name])]
    train(step, execute, given[1:], [RATE])
    assert not [name for name, value in step.model.named_parameters() if torch.equal(value, weights[name])]


@pytest.mark.gate("graph: a step that is not finite changes nothing, and the next one goes on")
def test_a_step_that_is_not_finite_changes_nothing_and_the_next_one_goes_on(stand):
    step, execute = stand.begin(), stand.graph()
    good, bad, after = batches(stand.device, 3)
    train(step, execute, [good], [RATE])
    before = state_of(step)
    images = bad.images.clone()
    images[0, 0, 0, 0] = math.nan
    assert execute(replace(bad, images=images))["skipped"]
    assert not differing(before, state_of(step))
    assert not execute(after)["skipped"]
    assert differing(before, state_of(step))
    assert step.guard.total_skipped == 1


@pytest.mark.gate("graph: resumed = uninterrupted, into a new graph and into one that is captured already")
def test_resumed_equals_uninterrupted_in_the_same_graph_and_in_a_new_one(stand, record_property):
    given, step = batches(stand.device, len(RATES)), stand.begin()
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
        texts.append(f"{through}: losses within {worst:.1e}, {len(changed)} tensors differ")
        assert not changed or (stand.device.type == "cuda" and worst < 1e-2), texts[-1]
    record_property("note", "; ".join(texts))


@pytest.mark.gate("graph: no wait for the device inside an epoch of the resident loader")
def test_nothing_waits_for_the_device_inside_an_epoch(stand, record_property):
    step, execute, device = stand.begin(), stand.graph(), stand.device
    count, size = on_gpu(device, 50_000, 24), len(stand.first.images)
    generator = torch.Generator(device).manual_seed(0)
    shape = (count, *image_shape(device))
    arrays = ImageArrays(
        images=torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8, device=device),
        targets=torch.randint(0, CLASSES, (count,), generator=generator, device=device),
        class_names=tuple(map(str, range(CLASSES))),
    )
    augmentation = Augmentation(padding=4, flip=True)
    loader = ResidentLoader(arrays, batch_size=size, augmentation=augmentation, seed=0, device=device)
    execute(next(loader.epoch(0)))
    sums: dict[str, Tensor] = {}
    steps = 0
    with waiting_is_an_error(device):
        for batch in prefetched(loader.epoch(1), device):
            set_learning_rate(step.optimizer, RATE)
            for name, value in execute(batch).items():
                sums[name] = sums[name] + value.double() if name in sums else value.double()
            steps += 1
    assert steps == loader.steps_per_epoch
    assert math.isfinite(float(sums["loss"]))
    record_property("note", f"{steps} steps, mean loss {float(sums['loss']) / steps:.3f}")


@pytest.mark.gate("graph: captured = compiled, {way}")
@pytest.mark.parametrize("way", OTHER_WAYS)
def test_the_graph_has_the_bits_of_the_uncaptured_step_run_another_way(device, way, record_property):
    if device.type == "cuda":
        gc.collect()
        torch._dynamo.reset()  # another step, far from the limit on recompilations; the one before is done
    same_as_uncaptured(Stand.build(device, **OTHER_WAYS[way]), record_property)
