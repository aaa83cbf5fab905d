"""What this GPU does at best: bytes copied and operations of a large matrix product per second."""

from __future__ import annotations

import torch

from bench.gpu_acceptance.device_timing import seconds_of
from bench.gpu_acceptance.records import Recorder
from bench.gpu_acceptance.setting import Setting
from dat_engine.profile.flops import matrix_product_rate

COPY_BANDWIDTH = "copy bandwidth"
MATRIX_PRODUCT_BF16 = "matrix product, bf16"


def run(setting: Setting, record: Recorder) -> None:
    count = setting.pick(1 << 29, 1 << 12)  # 2 GiB of float32, many times what a cache holds
    source = torch.randn(count, device=setting.device)
    copy = torch.empty_like(source)
    with record.gate("ceilings: a large copy is a copy"):
        seconds = seconds_of(lambda: copy.copy_(source), setting)
        if not torch.equal(copy, source):
            raise ValueError("the copy differs from its source")
        record.figure(COPY_BANDWIDTH, 2 * source.nbytes / seconds / 1e9, "GB/s", note="bytes read and bytes written")
    size = setting.pick(8192, 64)
    left, right = (torch.randn(size, size, device=setting.device).to(torch.bfloat16) for _ in range(2))
    out = torch.empty_like(left)
    note = f"{size} x {size} x {size}, random values"
    rate = 2 * size**3 / seconds_of(lambda: torch.mm(left, right, out=out), setting)
    record.figure(MATRIX_PRODUCT_BF16, rate / 1e12, "TFLOP/s", note=note)
    rate = matrix_product_rate(setting.device, torch.float32)
    note = "8192 x 8192 x 8192, random values; by the host's clock, about a hundredth too low"
    record.figure("matrix product, TF32", rate / 1e12, "TFLOP/s", note=note)
