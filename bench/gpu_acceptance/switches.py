"""What each switch of the step is worth: a DAT step with and without it, of the same branching, taking turns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bench.gpu_acceptance.gate_plugin import gate_of_file
from bench.gpu_acceptance.headline_gates import needs_of
from bench.gpu_acceptance.inputs import training_images
from bench.gpu_acceptance.records import Recorder, require
from bench.gpu_acceptance.setting import Setting
from bench.gpu_acceptance.step_times import ROUNDS, steps_per_turn, still_trains
from bench.gpu_acceptance.subjects import SWITCHED, Way, engine_contender
from dat_engine.profile.timing import Subject, time_in_turn, time_ratio
from dat_engine.step.switches import Switches


def run(setting: Setting, record: Recorder) -> None:
    """One switch at a time, so that what runs out of time or fails costs its own figure alone."""
    arrays = training_images(setting)
    without: dict[str, Subject] = {}
    for way in SWITCHED:
        gate = f"switches: {way} could be timed"
        if not setting.in_time(record, gate, seconds=setting.pick(45.0, 0.0)):
            continue
        with record.gate(gate) as notes:
            if way.branching not in without:
                without[way.branching] = engine_contender(
                    _way(replace(way, switches=Switches()), setting), arrays, setting
                )
            usual = without[way.branching]
            switched = engine_contender(_way(way, setting), arrays, setting)
            subjects = (usual, switched)
            require(usual.name != switched.name, f"{switched.name} switches nothing")
            steps = {subject.name: steps_per_turn(subject, setting) for subject in subjects}
            timings = time_in_turn(subjects, setting.device, rounds=setting.pick(ROUNDS, 1), steps=steps)
            still_trains(switched)
            ratio = time_ratio(timings[switched.name], timings[usual.name])
            own = (name for name in needs_of(str(way)) if not name.startswith("step times:"))
            files = ["engine/step/test_switches.py"]
            files += ["engine/attack/test_fused_epilogues.py"] if way.switches.fused_epilogues else []
            needs = (gate, *map(gate_of_file, files), *own)
            record.figure(
                f"switch: {way}", ratio, "x", needs=needs, note=f"its step over that of {usual.name}, in turn"
            )
            notes.text = f"{ratio:.3f} of the step without{_what_was_fused(way, switched)}"


def _what_was_fused(way: Way, switched: Subject) -> str:
    """A network with nothing to fuse runs as before, and a ratio says nothing of the switch."""
    if not way.switches.fused_epilogues:
        return ""
    step: Any = switched.step
    return f"; convolutions of both branches that take a ReLU along: {step.attack_model.fused_convolutions}"


def _way(way: Way, setting: Setting) -> Way:
    return setting.pick(way, replace(way, execution="eager"))  # tracing would make a rehearsal long
