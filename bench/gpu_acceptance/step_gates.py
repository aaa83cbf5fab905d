"""The training step on the GPU, uncaptured: the float64 oracle's numbers, and the same numbers every way of running it."""

from __future__ import annotations

import importlib
import itertools
import math
from dataclasses import fields, replace
from typing import Any

import torch

from bench.gpu_acceptance.kernel_backend import same_bits
from bench.gpu_acceptance.networks import (
    RATE,
    batches,
    deterministic,
    differing,
    exact_float32,
    parameters_of,
    state_of,
    train,
    training_step,
    update_difference,
)
from bench.gpu_acceptance.records import Recorder, require
from bench.gpu_acceptance.setting import Setting
from dat.methods.dat import DAT
from dat.methods.dat.method import DATMethod
from dat_engine.data import Batch
from dat_engine.model.precision import Precision
from dat_engine.step.optimizers import SGDSettings
from dat_engine.step.training_step import TrainingStep

ORACLE_RATE = 0.125  # a float32: the fused optimizer on a GPU keeps its rate as one


def run(setting: Setting, record: Recorder) -> None:
    deterministic()
    for update, branching in itertools.product(("joint", "alternating"), ("folded", "grouped")):
        name = f"step: float64 on this device = float64 oracle, {update}, {branching}"
        if setting.in_time(record, name):
            with record.gate(name) as notes, exact_float32():
                notes.text = against_oracle(update, branching, setting)
    with record.gate("step: groups on streams of their own = one grouped batch") as notes, exact_float32():
        notes.text = branchings_agree(setting)
    with record.gate("step: groups on streams give the same bits every time"):
        streams_do_not_race(setting)
    every = (("fp32", "grouped"), ("bf16", "grouped"), ("bf16", "folded"), ("fp16", "grouped"))
    rehearsed = every[:1]
    for precision, branching in every:
        name = f"step: compiled = eager, {precision}, {branching}"
        if setting.rehearsal and (precision, branching) not in rehearsed:
            record.skipped(name, "the rehearsal takes one precision: the code is the same")
        elif setting.in_time(record, name, seconds=15.0):
            with record.gate(name) as notes, exact_float32():
                notes.text = compiled_follows_eager(precision, branching, setting)
    with record.gate("step: gradients lie in memory as their parameters do, none twice") as notes:
        notes.text = gradients_fit(setting)
    with record.gate("step: fp16 halves its scale on overflow and changes nothing"):
        overflow_is_skipped(setting)


def against_oracle(update: Any, branching: Any, setting: Setting) -> str:
    """Losses, weights and statistics of one whole DAT step, against the literal transcription run on the CPU."""
    oracle_setting: Any = importlib.import_module("tests.dat.oracle_setting")
    oracle: Any = importlib.import_module("tests.oracle.method")
    values = oracle_setting.setting()
    expected = oracle.dat_step(
        model_state=values.model_state,
        generator_state=values.generator_state,
        images=values.batch.images,
        originals=values.batch.originals,
        targets=values.batch.targets,
        z=values.z,
        lam=values.lam,
        start_noise=values.start_noise,
        mix_start_noise=values.mix_start_noise,
        mix_offsets=values.mix_offsets,
        mix_flip=values.mix_flip,
        generator_update=update,
        learning_rate=ORACLE_RATE,
    )
    optimizer = SGDSettings(learning_rate=ORACLE_RATE)
    method = DATMethod(DAT(generator_update=update, generator_optimizer=optimizer), oracle_setting.TASK)
    method.generator.double().load_state_dict(oracle_setting.generator_of(values).state_dict())
    method.generator.to(setting.device)
    step = TrainingStep(
        oracle_setting.model_of(values).to(setting.device),
        method,
        optimizer=optimizer,
        precision=Precision(name="fp64", channels_last=True),
        update=update,
        branching=branching,
    )
    noise = {
        "latent": values.z,
        "lam": values.lam,
        "start": 0.001 * torch.cat([values.start_noise, values.mix_start_noise]),
        "crop_offsets": values.mix_offsets,
        "flip": values.mix_flip,
    }
    metrics = step(_on(values.batch, setting.device), {name: value.to(setting.device) for name, value in noise.items()})
    worst = abs(float(metrics["loss"]) / float(expected["terms"]["loss"]) - 1)
    require(worst < 1e-8, f"the loss differs by {worst:.1e} of itself")
    own, names = step.model.state_dict(), oracle_setting.reference_names(step.model)
    for state in (expected["model_after"], expected["running_after"]):
        for name, theirs in names.items():
            if theirs in state and not name.endswith("num_batches_tracked"):
                error = float((own[name].cpu() - state[theirs]).abs().max())
                worst = max(worst, error)
                require(error < 1e-7, f"{name} differs by {error:.1e}")
    generator = dict(method.generator.named_parameters())["model.0.weight"].detach().cpu()
    error = float((generator - expected["generator_after"]["model.0.weight"]).abs().max())
    require(error < 1e-7, f"the generator's first layer differs by {error:.1e}")
    return f"largest difference {max(worst, error):.1e}"


def branchings_agree(setting: Setting) -> str:
    given, rates = batches(setting, 2), [RATE] * 2
    steps = {branching: training_step(setting, branching=branching) for branching in ("folded", "grouped")}
    before = state_of(steps["folded"])
    losses = {name: train(step, step, given, rates) for name, step in steps.items()}
    first = abs(losses["folded"][0] / losses["grouped"][0] - 1)
    require(first < 1e-4, f"the first loss differs by {first:.1e} of itself")
    difference = update_difference(before, state_of(steps["folded"]), state_of(steps["grouped"]))
    # sign gradients near zero fall either way: a tenth of the update is far above that and far below a wrong branch
    require(difference < 0.1, f"the weights' movement differs by {difference:.1%}")
    return f"first loss within {first:.1e}, movement within {difference:.2%}"


def streams_do_not_race(setting: Setting) -> None:
    """Logits and image gradients of both groups, many times over, with memory handed round in between."""
    attack_model = training_step(setting, precision="bf16", branching="folded").attack_model
    assert attack_model is not None
    (batch,) = batches(setting, 1, size=setting.pick(256, 4))
    first: tuple[torch.Tensor, torch.Tensor] | None = None
    for _ in range(setting.pick(30, 2)):
        inputs = batch.images.to(torch.bfloat16, memory_format=torch.channels_last, copy=True).requires_grad_()
        logits = attack_model.logits(inputs, ("base", "mix"))
        (gradient,) = torch.autograd.grad(logits.square().sum(), inputs)
        junk = torch.full_like(gradient, math.nan)
        first = first or (logits.detach().clone(), gradient.clone())
        require(same_bits(logits.detach(), first[0]), "logits differ between runs")
        require(same_bits(gradient, first[1]), "image gradients differ between runs")
        del junk


def compiled_follows_eager(precision: str, branching: str, setting: Setting) -> str:
    """First loss, then the movement of all weights over three steps; and nothing is compiled after the first step."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    given, rates = batches(setting, 3), [RATE, RATE / 2, RATE]
    compiled = training_step(setting, precision=precision, branching=branching, compiled=True)
    eager = training_step(setting, precision=precision, branching=branching)
    before = state_of(eager)
    losses = train(compiled, compiled, given[:1], rates[:1])
    graphs = counters["stats"]["unique_graphs"]
    losses += train(compiled, compiled, given[1:], rates[1:])
    require(counters["stats"]["unique_graphs"] == graphs, "something was compiled again after the first step")
    expected = train(eager, eager, given, rates)
    first = abs(losses[0] / expected[0] - 1)
    require(first < (1e-4 if precision == "fp32" else 1e-2), f"the first loss differs by {first:.1e} of itself")
    difference = update_difference(before, state_of(eager), state_of(compiled))
    require(difference < (0.1 if precision == "fp32" else 0.4), f"the weights' movement differs by {difference:.1%}")
    return f"first loss within {first:.1e}, movement within {difference:.2%}, {graphs} graphs"


def gradients_fit(setting: Setting) -> str:
    """Fused optimizers walk weights and gradients side by side as flat memory and unscale gradients in place."""
    for compiled, precision in itertools.product(setting.pick((False, True), (False,)), ("bf16", "fp16")):
        step = training_step(setting, precision=precision, compiled=compiled)
        step(batches(setting, 1)[0])
        owners: dict[int, str] = {}
        for index, parameter in enumerate(parameters_of(step)):
            gradient = parameter.grad
            assert gradient is not None
            strides = zip(parameter.shape, parameter.stride(), gradient.stride(), strict=True)
            require(all(p == g for size, p, g in strides if size != 1), f"gradient {index} has other strides")
            place = gradient.data_ptr()
            require(place not in owners, f"gradients {index} and {owners.get(place)} are one tensor")
            owners[place] = str(index)
    return f"{len(owners)} gradients"


def overflow_is_skipped(setting: Setting) -> None:
    step = training_step(setting, precision="fp16")
    good, bad = batches(setting, 2)
    require(not bool(step(good)["skipped"]), "a good step was skipped")
    before, scale = state_of(step), float(step.guard.state_dict()["scale"])
    poisoned = replace(bad, images=torch.full_like(bad.images, math.nan))
    require(bool(step(poisoned)["skipped"]), "a batch of NaN was not skipped")
    require(float(step.guard.state_dict()["scale"]) == scale / 2, "the scale did not halve")
    changed = differing(before, state_of(step))
    require(not changed, f"a skipped step changed {', '.join(changed[:3])}")


def _on(batch: Batch, device: torch.device) -> Batch:
    given = {field.name: getattr(batch, field.name) for field in fields(batch)}
    moved: dict[str, Any] = {name: None if value is None else value.to(device) for name, value in given.items()}
    return Batch(**moved)
