"""One seed, two runs of the step as training runs it: the same bits, or the names of the tensors that differ.

No deterministic algorithm is asked for, so that a difference is news and not a failure; two runs that have nothing to do with
each other are one.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from bench.gpu_acceptance.inputs import training_images
from bench.gpu_acceptance.networks import differing, state_of, update_difference
from bench.gpu_acceptance.records import Recorder, require
from bench.gpu_acceptance.setting import Setting
from bench.gpu_acceptance.subjects import DAT_GROUPED, loader_of, training_step
from dat_engine.data import ImageArrays
from dat_engine.profile.timing import endless
from dat_engine.step.graph import GraphedStep

GATE = "repeatability: two runs of one seed train alike"
STEPS = 10


def run(setting: Setting, record: Recorder) -> None:
    with record.gate(GATE) as notes:
        arrays = training_images(setting)
        (before, losses, state), (_, again, other) = (_trained(arrays, setting) for _ in range(2))
        changed = differing(state, other)
        record.detail(
            "repeatability", {"tensors": len(state), "differing": changed, "losses": [losses, again], "steps": STEPS}
        )
        if not changed:
            notes.text = f"the same bits in {len(state)} tensors after {len(losses)} steps"
            return
        difference = update_difference(before, state, other)
        notes.text = (
            f"{len(changed)} of {len(state)} tensors differ, {', '.join(changed[:3])} among them; movement differs by "
            f"{difference:.1e}"
        )
        require(abs(losses[0] / again[0] - 1) < 1e-2, f"the first losses are {losses[0]} and {again[0]}")


def _trained(arrays: ImageArrays, setting: Setting) -> tuple[dict[str, Tensor], list[float], dict[str, Tensor]]:
    """State before, losses, state after some steps of a new step of the same seed on the same batches."""
    torch.manual_seed(0)
    # tracing would make a rehearsal long
    way = setting.pick(DAT_GROUPED, replace(DAT_GROUPED, execution="eager"))
    step = training_step(way, arrays, setting)
    before, execute = state_of(step), GraphedStep(step)
    batches = endless(loader_of(arrays, setting), setting.device)
    losses = [float(execute(next(batches))["loss"]) for _ in range(setting.pick(STEPS, 2))]
    require(execute.captured, "the step was not captured")
    return before, losses, state_of(step)
