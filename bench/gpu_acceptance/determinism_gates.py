"""Two trainings from one seed under --deterministic: every weight bit for bit, however the step is run."""

from __future__ import annotations

from dataclasses import replace

import torch

from bench.gpu_acceptance.inputs import training_images
from bench.gpu_acceptance.kernel_backend import same_bits
from bench.gpu_acceptance.records import Recorder, require
from bench.gpu_acceptance.setting import Setting
from dat.recipes import Recipe, recipe
from dat.training.build import build_method, build_model, build_step
from dat_engine.data import Augmentation, ImageArrays, ResidentLoader
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
    chosen = _recipe(execution, setting)
    model = build_model(chosen, arrays.num_classes, arrays.image_shape).to(setting.device)
    step = build_step(chosen, model, build_method(chosen, arrays))
    execute = GraphedStep(step) if execution == "graphed" else step
    loader = ResidentLoader(
        arrays,
        batch_size=setting.pick(128, 8),
        augmentation=Augmentation(padding=4, flip=True),
        seed=1,
        device=setting.device,
    )
    for _, batch in zip(range(setting.pick(20, 2)), loader.epoch(0), strict=False):
        execute(batch)
    return {name: value.detach().clone() for name, value in step.model.state_dict().items()}


def _recipe(execution: str, setting: Setting) -> Recipe:
    base = recipe("cifar10-resnet18", "dat")
    settings = base.settings if not setting.rehearsal else replace(base.settings, steps=1)
    return replace(
        base,
        settings=settings,
        batch_size=setting.pick(128, 8),
        model=replace(base.model, width=setting.pick(64, 4)),
        engine=replace(base.engine, execution="eager" if execution == "eager" else "compiled"),
    )
