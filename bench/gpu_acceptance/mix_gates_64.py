"""amplitude_mix at 64 pixels, Tiny-ImageNet's size; its kernels take longest to compile."""

from __future__ import annotations

from bench.gpu_acceptance.mix_gates import run_size
from bench.gpu_acceptance.records import Recorder
from bench.gpu_acceptance.setting import Setting


def run(setting: Setting, record: Recorder) -> None:
    run_size(64, setting, record)
