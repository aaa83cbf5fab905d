"""Two trainings from one seed under --deterministic: every weight bit for bit, however the step is run."""

from __future__ import annotations

from dataclasses import replace

import torch

from bench.gpu_acceptance.inputs import training_images
from bench.gpu_acceptance.kernel_backend import same_bits
from bench.gpu_acceptance.records import Recorder, require
from bench.gpu_acceptance.setting import Setting
from bench.gpu_acceptance.subjects import DAT_GROUPED, loader_of, training_step
from dat_engine.data import ImageArrays
from dat_engine.run.determinism import deterministic
from dat_engine.step.graph import GraphedStep


def run(setting: Setting, record: Recorder) -> None:
    arrays = training_images(setting)
    for execution in ("eager", "compiled", *setting.pick(("graphed",), ())):
        gate = f"deterministic: two runs of the {execution} step from one seed have the same bits"
        if setting.in_time(record, gate, 20.0 if not setting.rehearsal else 0.0):
            with record.gate(gate) as notes, deterministic():
                one, other = (_weights_after(execution, arrays, setting) for _ in range(2))
                different = [name for name in one if not same_bits(one[name], other[name])]
                require(not different, f"{len(different)} tensors differ, {different[:1]} first")
                notes.text = f"{len(one)} tensors"


def _weights_after(execution: str, arrays: ImageArrays, setting: Setting) -> dict[str, torch.Tensor]:
    step = training_step(replace(DAT_GROUPED, execution=execution), arrays, setting)
    execute = GraphedStep(step) if execution == "graphed" else step
    for _, batch in zip(range(setting.pick(20, 2)), loader_of(arrays, setting).epoch(0), strict=False):
        execute(batch)
    return {name: value.detach().clone() for name, value in step.model.state_dict().items()}
