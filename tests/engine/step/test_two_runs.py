"""One seed, two trainings: the same bits under --deterministic, and without it the same bits or a note of what differs.

On a GPU the step is the headline's: a ResNet-18 on batches of 128, in bf16.
"""

from __future__ import annotations

import pytest
import torch

from dat_engine.data import Augmentation, ImageArrays, ResidentLoader
from dat_engine.run.determinism import deterministic
from dat_engine.step.graph import GraphedStep
from tests.conftest import device_or_skip
from tests.engine.step.whole_steps import (
    CLASSES,
    differing,
    image_shape,
    on_gpu,
    state_of,
    training_step,
    update_difference,
)
from tests.kernels.inputs import make_images
from tests.kernels.steps import assert_same_bits

EXECUTIONS = [
    *(pytest.param("cpu", execution) for execution in ("eager", "graphed")),
    *(pytest.param("cuda", execution, marks=pytest.mark.gpu) for execution in ("eager", "compiled", "graphed")),
]


def headline_step(device, execution):
    compiled = device.type == "cuda" and execution != "eager"
    if compiled:
        torch._dynamo.reset()
    return training_step(device, model="resnet18", width=64, precision="bf16", branching="grouped", compiled=compiled)


def batches_of(device, count):
    """Of the recipe: crops out of 4 pixels of padding, flips."""
    size = on_gpu(device, 128, 4)
    images = make_images("one_over_f", (size * count, *image_shape(device))).mul(255).round().to(torch.uint8)
    arrays = ImageArrays(
        images=images.to(device),
        targets=(torch.arange(len(images)) % CLASSES).to(device),
        class_names=tuple(map(str, range(CLASSES))),
    )
    augmentation = Augmentation(padding=4, flip=True)
    return ResidentLoader(arrays, batch_size=size, augmentation=augmentation, seed=0, device=device).epoch(0)


@pytest.mark.gate("repeatability: two runs of one seed train alike")
def test_two_runs_of_one_seed_train_alike(device, record_property):
    """No deterministic algorithm is asked for: on a GPU a difference is news, and two runs without likeness a failure."""
    states, losses, count = [], [], on_gpu(device, 10, 2)
    for _ in range(2):
        step = headline_step(device, "graphed")
        before, execute = state_of(step), GraphedStep(step)
        losses.append([float(execute(batch)["loss"]) for batch in batches_of(device, count)])
        assert execute.captured and len(losses[-1]) == count
        states.append(state_of(step))
    changed = differing(*states)
    found = {"tensors": len(states[0]), "differing": changed, "losses": losses, "steps": count}
    record_property("repeatability", found)
    difference = update_difference(before, *states)
    same = f"the same bits in {len(states[0])} tensors after {count} steps"
    other = (
        f"{len(changed)} of {len(states[0])} tensors differ, {', '.join(changed[:3])} among them; movement differs by "
    )
    record_property("note", f"{other}{difference:.1e}" if changed else same)
    assert not changed or (device.type == "cuda" and abs(losses[0][0] / losses[1][0] - 1) < 1e-2)


@pytest.mark.gate("deterministic: two runs of the {execution} step from one seed have the same bits")
@pytest.mark.parametrize(("where", "execution"), EXECUTIONS)
def test_two_deterministic_runs_of_one_seed_have_the_same_bits(where, execution, record_property):
    """Compiled on a GPU alone: tests/dat/test_deterministic.py does so on the CPU."""
    device, states = device_or_skip(where), []
    with deterministic():
        for _ in range(2):
            step = headline_step(device, execution)
            execute = GraphedStep(step) if execution == "graphed" else step
            for batch in batches_of(device, on_gpu(device, 20, 2)):
                execute(batch)
            states.append({name: value.detach().clone() for name, value in step.model.state_dict().items()})
    for name, value in states[0].items():
        assert_same_bits(value, states[1][name])
    record_property("note", f"{len(states[0])} tensors")
