"""Seconds of training steps, data and augmentation included; all subjects in one process, taking turns.

An epoch is the median step times the steps of an epoch: it is extrapolated from the timed steps, and leaves out validation,
logs and checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import torch

from bench.gpu_acceptance import targets
from bench.gpu_acceptance.ceilings import MATRIX_PRODUCT_BF16
from bench.gpu_acceptance.headline_gates import needs_of
from bench.gpu_acceptance.inputs import training_images
from bench.gpu_acceptance.records import Recorder, require
from bench.gpu_acceptance.setting import Setting
from bench.gpu_acceptance.step_profile import StepProfile, profile_steps
from bench.gpu_acceptance.subjects import (
    APEX,
    DAT_FOLDED,
    DAT_GROUPED,
    EAGER_FP32,
    EAGER_TF32,
    PGD_AT,
    WAYS,
    Way,
    eager_contenders,
    engine_contender,
)
from dat_engine.data import ImageArrays
from dat_engine.profile.flops import count_flops
from dat_engine.profile.timing import Subject, Timing, now, steps_that_take, time_in_turn, time_ratio, with_peak_memory
from dat_engine.step.apex_sgd import why_unusable

BATCH = 128
HEADLINES = (DAT_GROUPED, DAT_FOLDED, PGD_AT)
TURN_SECONDS, ROUNDS, PROFILED = 0.5, 7, 5


def run(setting: Setting, record: Recorder) -> None:
    """What the targets need is built, timed, written down and profiled first; the other ways follow one by one."""
    arrays = training_images(setting)
    subjects = [*_build(HEADLINES, arrays, setting, record), *_eager(arrays, setting, record)]
    timings = _time(subjects, len(arrays), setting, record)
    best = min((str(DAT_GROUPED), str(DAT_FOLDED)), key=lambda name: _seconds(timings, name))
    if best not in timings:
        return
    subject = next(one for one in subjects if one.name == best)
    _against_targets(best, timings, len(arrays) // setting.pick(BATCH, 4), record)
    _profile(subject, timings[best], setting, record)
    apex = why_unusable()
    if apex is not None:
        record.skipped("step times: a step with apex's FusedSGD", apex)
    others = [way for way in WAYS if way not in HEADLINES]
    rehearsed = [way for way in others if way.execution == "eager"]  # nothing is traced, the code is the same
    for way in (*setting.pick(others, rehearsed), *((APEX,) if apex is None and not setting.rehearsal else ())):
        if not setting.rehearsal and setting.time_left < 40:
            record.skipped(f"step times: {way} can be built", "the section's time was used up")
            continue
        with record.gate(f"step times: {way} could be timed"):
            _time(_build((way,), arrays, setting, record), len(arrays), setting, record)


def _time(subjects: Sequence[Subject], images: int, setting: Setting, record: Recorder) -> dict[str, Timing]:
    """Step and epoch of each, all in turn; a subject that skips its steps fails a gate of its own."""
    steps = {subject.name: steps_per_turn(subject, setting) for subject in subjects}
    timings = time_in_turn(subjects, setting.device, rounds=setting.pick(ROUNDS, 1), steps=steps)
    per_epoch = images // setting.pick(BATCH, 4)
    for name, timing in timings.items():
        note = f"median of {len(timing.seconds)} turns of {timing.steps} steps, alternating"
        needs = needs_of(name)
        record.figure(f"step: {name}", 1e3 * timing.step_seconds, "ms", needs=needs, note=note)
        epoch = f"{per_epoch} steps, extrapolated from {len(timing.seconds) * timing.steps} timed ones"
        record.figure(f"epoch: {name}", timing.step_seconds * per_epoch, "s", needs=needs, note=epoch)
        record.detail(f"turns of {name}", {"steps": timing.steps, "seconds": list(timing.seconds)})
    for subject in subjects:
        with record.gate(f"step times: {subject.name} trains"):
            still_trains(subject)
    return timings


def _build(ways: Sequence[Way], arrays: ImageArrays, setting: Setting, record: Recorder) -> list[Subject]:
    """Every subject that can be built in time; one that cannot be does not take the others with it."""
    subjects: list[Subject] = []
    for way in ways:
        gate = f"step times: {way} can be built"
        if setting.in_time(record, gate, seconds=30.0):
            with record.gate(gate):
                subject, peak = with_peak_memory(partial(engine_contender, way, arrays, setting), setting.device)
                subjects.append(subject)
                if peak is not None:
                    note = "device memory at most, from building to the second step; the data set not counted"
                    record.figure(f"peak memory: {way}", peak / 2**30, "GiB", needs=needs_of(str(way)), note=note)
    return subjects


def _eager(arrays: ImageArrays, setting: Setting, record: Recorder) -> list[Subject]:
    """The eager baselines; without them only the ratios to them are missing."""
    subjects: list[Subject] = []
    with record.gate("step times: the eager baselines can be built"):
        subjects += eager_contenders(arrays, setting)
    return subjects


def steps_per_turn(subject: Subject, setting: Setting) -> int:
    if setting.rehearsal:
        return 1
    started = now(setting.device)
    for _ in range(3):
        subject.run(next(subject.batches))
    return steps_that_take(TURN_SECONDS, (now(setting.device) - started) / 3)


def still_trains(subject: Subject) -> None:
    result = subject.run(next(subject.batches))
    loss = result["loss"] if isinstance(result, dict) else result
    require(math.isfinite(float(loss)), f"the loss of {subject.name} is {float(loss)}")  # type: ignore[arg-type]
    if isinstance(result, dict):
        require(not bool(result["skipped"]), f"{subject.name} skips its steps")


def _seconds(timings: dict[str, Timing], name: str) -> float:
    return timings[name].step_seconds if name in timings else math.inf


def _against_targets(best: str, timings: dict[str, Timing], per_epoch: int, record: Recorder) -> None:
    note = f"{best}; extrapolated from {timings[best].steps * len(timings[best].seconds)} steps"
    epoch, needs = timings[best].step_seconds * per_epoch, needs_of(best)
    record.figure(targets.DAT_EPOCH, epoch, "s", needs=needs, note=note)
    for figure, reference in (
        (targets.TO_PGD_AT, str(PGD_AT)),
        (targets.TO_EAGER_FP32, EAGER_FP32),
        (targets.TO_EAGER_TF32, EAGER_TF32),
    ):
        if reference in timings:
            ratio = time_ratio(timings[best], timings[reference])
            both = tuple(dict.fromkeys((*needs, *needs_of(reference))))
            record.figure(figure, ratio, "x", needs=both, note=f"{best} against {reference}")


def _profile(subject: Subject, timing: Timing, setting: Setting, record: Recorder) -> None:
    """GPU busy, kernels, launches, the data's share, and operations per second of the fastest DAT step."""
    device, steps = setting.device, setting.pick(PROFILED, 1)
    needs = needs_of(subject.name)
    with record.gate("step times: the profiler sees the GPU's work") as notes:
        found = profile_steps(subject, setting, steps=steps)
        if not setting.rehearsal:
            require(found.kernel_seconds > 0, "the profile holds no GPU work")
        _figures_of(found, subject, timing, needs, record)
        notes.text = f"a step takes {found.seconds / timing.step_seconds:.2f} times as long under the profiler"
    with record.gate("step times: operations can be counted"):
        flops = count_flops(lambda: subject.step(next(subject.batches)))
        rate = flops / timing.step_seconds / 1e12
        record.figure("operations of a DAT step", flops / 1e12, "TFLOP", note="convolutions and matrix products")
        record.figure("operations per second in DAT steps", rate, "TFLOP/s", needs=needs, note=subject.name)
        ceiling = setting.earlier(MATRIX_PRODUCT_BF16)
        if ceiling:
            note = "of a large bf16 matrix product measured in this run"
            record.figure("share of the matrix-product rate", 100 * rate / ceiling, "%", needs=needs, note=note)
    if device.type == "cuda":
        reserved = torch.cuda.max_memory_reserved(device) / 2**30
        record.figure("memory reserved by step_times, all subjects", reserved, "GiB")


def _figures_of(found: StepProfile, subject: Subject, timing: Timing, needs: tuple[str, ...], record: Recorder) -> None:
    busy = 100 * found.kernel_seconds / timing.step_seconds
    note = f"{subject.name}; summed kernel time over the unprofiled step's time"
    record.figure(targets.BUSY, busy, "%", needs=needs, note=note)
    data = 100 * found.data_seconds / found.kernel_seconds if found.kernel_seconds else 0.0
    record.figure(targets.DATA_SHARE, data, "%", needs=needs, note="gather, crop, flip, convert: both views")
    nodes = found.launches if found.graph_nodes is None else found.graph_nodes
    note = "kernels, copies and fills of one replay" if found.graph_nodes else "kernels, copies and fills of one step"
    record.figure(targets.LAUNCHES, nodes, "nodes", needs=needs, note=note)
    record.detail("profile of the DAT step", asdict(found))
    record.detail("largest kernels of the DAT step", list(found.kernels))
