"""Seconds of training steps, data and augmentation included; all subjects in one process, taking turns.

An epoch is the median step times the steps of an epoch: it is extrapolated from the timed steps, and leaves out validation,
logs and checkpoints.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Sequence
from functools import partial

import torch

from bench.gpu_acceptance import targets
from bench.gpu_acceptance.ceilings import MATRIX_PRODUCT_BF16
from bench.gpu_acceptance.inputs import training_images
from bench.gpu_acceptance.records import Recorder, require
from bench.gpu_acceptance.setting import Setting
from bench.gpu_acceptance.subjects import (
    APEX,
    DAT_FOLDED,
    DAT_GROUPED,
    EAGER_DAT_TF32,
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
from dat_engine.profile.trace import read_windows, recording, window
from dat_engine.step.apex_sgd import why_unusable

BATCH = 128
NEEDS = ("step:", "data:", "amplitude_mix 32x32", "pgd_step", "augment", "step times:")
CAPTURED_NEEDS = (*NEEDS, "graph:")
TURN_SECONDS, ROUNDS, PROFILED = 0.5, 7, 20


def run(setting: Setting, record: Recorder) -> None:
    arrays = training_images(setting)
    subjects = _build(arrays, setting, record)
    if not subjects:
        return
    steps = {subject.name: _steps_per_turn(subject, setting) for subject in subjects}
    timings = time_in_turn(subjects, setting.device, rounds=setting.pick(ROUNDS, 1), steps=steps)
    with record.gate("step times: the timed steps train"):
        for subject in subjects:
            _still_trains(subject)
    per_epoch = len(arrays) // setting.pick(BATCH, 4)
    for name, timing in timings.items():
        note = f"median of {len(timing.seconds)} turns of {timing.steps} steps, alternating"
        needs = _needs(name)
        record.figure(f"step: {name}", 1e3 * timing.step_seconds, "ms", needs=needs, note=note)
        epoch = f"{per_epoch} steps, extrapolated from {len(timing.seconds) * timing.steps} timed ones"
        record.figure(f"epoch: {name}", timing.step_seconds * per_epoch, "s", needs=needs, note=epoch)
    best = min((str(DAT_GROUPED), str(DAT_FOLDED)), key=lambda name: _seconds(timings, name))
    if best in timings:
        _against_targets(best, timings, per_epoch, record)
        subject = next(one for one in subjects if one.name == best)
        _profile(subject, timings[best], setting, record)


def _build(arrays: ImageArrays, setting: Setting, record: Recorder) -> list[Subject]:
    """Every subject that can be built in time; one that cannot be does not take the others with it."""
    subjects: list[Subject] = []
    apex = why_unusable()
    if apex is not None:
        record.skipped("step times: a step with apex's FusedSGD", apex)
    ways: Sequence[Way] = setting.pick(WAYS, WAYS[:4]) + ((APEX,) if apex is None and not setting.rehearsal else ())
    for way in ways:
        optional = way not in (DAT_GROUPED, DAT_FOLDED, PGD_AT)
        gate = f"step times: {way} can be built"
        if optional and not setting.rehearsal and setting.time_left < 90:
            record.skipped(gate, "its time is left to the measurements that the targets need")
        elif setting.in_time(record, gate, seconds=30.0):
            with record.gate(gate):
                subject, peak = with_peak_memory(partial(engine_contender, way, arrays, setting), setting.device)
                subjects.append(subject)
                if peak is not None:
                    note = "device memory at most, from building to the second step; the data set not counted"
                    record.figure(f"peak memory: {way}", peak / 2**30, "GiB", needs=_needs(str(way)), note=note)
    try:
        subjects += eager_contenders(arrays, setting)
    except Exception:  # the ratios to them are then missing, and the table says so
        traceback.print_exc()
    return subjects


def _steps_per_turn(subject: Subject, setting: Setting) -> int:
    if setting.rehearsal:
        return 1
    started = now(setting.device)
    for _ in range(3):
        subject.run(next(subject.batches))
    return steps_that_take(TURN_SECONDS, (now(setting.device) - started) / 3)


def _still_trains(subject: Subject) -> None:
    result = subject.run(next(subject.batches))
    loss = result["loss"] if isinstance(result, dict) else result
    require(math.isfinite(float(loss)), f"the loss of {subject.name} is {float(loss)}")  # type: ignore[arg-type]
    if isinstance(result, dict):
        require(not bool(result["skipped"]), f"{subject.name} skips its steps")


def _needs(name: str) -> tuple[str, ...]:
    if name in (EAGER_FP32, EAGER_TF32, EAGER_DAT_TF32):
        return ("step times:",)
    return CAPTURED_NEEDS if "graphed" in name else NEEDS


def _seconds(timings: dict[str, Timing], name: str) -> float:
    return timings[name].step_seconds if name in timings else math.inf


def _against_targets(best: str, timings: dict[str, Timing], per_epoch: int, record: Recorder) -> None:
    note = f"{best}; extrapolated from {timings[best].steps * len(timings[best].seconds)} steps"
    epoch = timings[best].step_seconds * per_epoch
    record.figure(targets.DAT_EPOCH, epoch, "s", needs=CAPTURED_NEEDS, note=note)
    for figure, reference in (
        (targets.TO_PGD_AT, str(PGD_AT)),
        (targets.TO_EAGER_FP32, EAGER_FP32),
        (targets.TO_EAGER_TF32, EAGER_TF32),
    ):
        if reference in timings:
            ratio = time_ratio(timings[best], timings[reference])
            record.figure(figure, ratio, "x", needs=CAPTURED_NEEDS, note=f"{best} against {reference}")


def _profile(subject: Subject, timing: Timing, setting: Setting, record: Recorder) -> None:
    """GPU busy, the data's share, and operations per second of the fastest DAT step."""
    device, steps = setting.device, setting.pick(PROFILED, 1)
    with record.gate("step times: the profiler sees the GPU's work") as notes:
        path = setting.work / "steps.trace.json"
        with recording(path, device):
            subject.run(next(subject.batches))  # the profiler prepares itself at the first launches
            now(device)
            with window("steps"):
                for _ in range(steps):
                    subject.run(next(subject.batches))
                now(device)
        reading = read_windows(path, device)["steps"]
        busy = reading.device_seconds or 0.0
        if not setting.rehearsal:
            require(busy > 0, "the profile holds no GPU work")
            share = 100 * busy / reading.seconds
            note = (
                f"{subject.name}; time with a kernel or copy running over wall time, {steps} steps, under the profiler"
            )
            record.figure(targets.BUSY, share, "%", needs=CAPTURED_NEEDS, note=note)
            data = 100 * reading.phases["data"] / busy
            record.figure(
                targets.DATA_SHARE, data, "%", needs=CAPTURED_NEEDS, note="gather, crop, flip, convert: both views"
            )
            slowdown = reading.seconds / steps / timing.step_seconds
            notes.text = f"a step takes {slowdown:.2f} times as long under the profiler"
    with record.gate("step times: operations can be counted"):
        flops = count_flops(lambda: subject.step(next(subject.batches)))
        rate = flops / timing.step_seconds / 1e12
        record.figure("operations of a DAT step", flops / 1e12, "TFLOP", note="convolutions and matrix products")
        record.figure("operations per second in DAT steps", rate, "TFLOP/s", needs=CAPTURED_NEEDS, note=subject.name)
        ceiling = setting.earlier(MATRIX_PRODUCT_BF16)
        if ceiling:
            note = "of a large bf16 matrix product measured in this run"
            record.figure(
                "share of the matrix-product rate", 100 * rate / ceiling, "%", needs=CAPTURED_NEEDS, note=note
            )
    if device.type == "cuda":
        reserved = torch.cuda.max_memory_reserved(device) / 2**30
        record.figure("memory reserved by step_times, all subjects", reserved, "GiB")
