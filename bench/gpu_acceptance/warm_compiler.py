"""Compiles what step_times will run, while the gates run: its own time then goes into measuring."""

from __future__ import annotations

from bench.gpu_acceptance.inputs import training_images
from bench.gpu_acceptance.records import Recorder
from bench.gpu_acceptance.setting import Setting
from bench.gpu_acceptance.subjects import DAT_FOLDED, DAT_GROUPED, PGD_AT, loader_of, training_step


def run(setting: Setting, record: Recorder) -> None:
    arrays = training_images(setting)
    batch = next(loader_of(arrays, setting).epoch(0))
    for way in setting.pick((DAT_GROUPED, PGD_AT, DAT_FOLDED), ()):
        training_step(way, arrays, setting)(batch)
