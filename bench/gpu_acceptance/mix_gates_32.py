"""amplitude_mix at 32 pixels, CIFAR's size."""

from __future__ import annotations

from bench.gpu_acceptance.mix_gates import run_size
from bench.gpu_acceptance.records import Recorder
from bench.gpu_acceptance.setting import Setting


def run(setting: Setting, record: Recorder) -> None:
    run_size(32, setting, record)
