"""amplitude_mix at 16 pixels, and at sizes that go through torch.fft."""

from __future__ import annotations

from bench.gpu_acceptance.mix_gates import run_any_size, run_size
from bench.gpu_acceptance.records import Recorder
from bench.gpu_acceptance.setting import Setting


def run(setting: Setting, record: Recorder) -> None:
    run_size(16, setting, record)
    run_any_size(setting, record)
