"""Bytes that three kernels move through device memory, read by Nsight Compute, against those that they must move."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch

from bench.gpu_acceptance.inputs import make_images
from bench.gpu_acceptance.launch import ROOT
from bench.gpu_acceptance.records import Recorder, require
from bench.gpu_acceptance.setting import Setting
from dat_kernels import amplitude_mix, augment, pgd_step

METRICS = ("dram__bytes_read.sum", "dram__bytes_write.sum")
UNITS = {"byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9, "B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9}
KERNELS = {"mix_forward": "amplitude_mix", "step_dense": "pgd_step", "gather_augmented": "augment"}
"""Functions of the Triton kernels, and the operations that they serve."""
BATCH = 32_768
GATE = "dram bytes: Nsight Compute reads the counters"
LOG = "dram_bytes.csv"


def run(setting: Setting, record: Recorder) -> None:
    ncu = shutil.which("ncu")
    if setting.rehearsal:
        profiled(torch.device("cpu"), batch=2)
    if setting.rehearsal or ncu is None:
        record.skipped(GATE, "ncu is not installed" if ncu is None else "a rehearsal has no counters")
        return
    log = setting.work / LOG
    reason = _count(ncu, log, setting.time_left - 5)
    if reason is not None:
        record.skipped(GATE, reason)
        return
    with record.gate(GATE) as notes:
        counted = read_bytes(log.read_text(encoding="utf-8", errors="replace").splitlines())
        record.detail("bytes through device memory by kernel", counted)
        for kernel, operation in KERNELS.items():
            moved = next((found for name, found in counted.items() if kernel in name), None)
            require(moved is not None, f"no kernel is called {kernel}; there are {', '.join(counted)}")
            assert moved is not None
            ratio = moved / must_move()[operation]
            note = f"{moved / 1e9:.3f} GB moved, {BATCH}x3x32x32"
            record.figure(f"{operation}: bytes moved / bytes that must be", ratio, "x", needs=(GATE,), note=note)
        notes.text = f"{len(counted)} kernels"


def must_move(batch: int = BATCH) -> dict[str, float]:
    """Bytes that each call must read and write at least: inputs once, outputs once."""
    values = 3 * 32 * 32 * batch
    return {"amplitude_mix": 3 * 4 * values, "pgd_step": 4 * 4 * values, "augment": 5 * values}


def profiled(device: torch.device, *, batch: int = BATCH) -> None:
    """One call of each, between the marks that tell Nsight Compute what to look at."""
    shape = (batch, 3, 32, 32)
    images, other = (make_images("random", shape, seed=seed, device=device) for seed in range(2))
    lam = torch.rand(batch, device=device)
    stored, indices = images.mul(255).to(torch.uint8), torch.randperm(batch, device=device)
    offsets = torch.randint(-4, 5, (batch, 2), device=device, dtype=torch.int32)
    flip = torch.rand(batch, device=device) < 0.5
    out = torch.empty_like(images)
    calls = (
        lambda: amplitude_mix(images, other, lam),
        lambda: pgd_step(images, other, images, step_size=2 / 255, epsilon=8 / 255, out=out),
        lambda: augment(stored, indices, crop_offsets=offsets, flip=flip),
    )
    for call in calls:
        call()  # compiled and tuned before anybody counts
    if device.type != "cuda":
        return
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    for call in calls:
        call()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


def _count(ncu: str, log: Path, seconds: float) -> str | None:
    """Run `profiled` under Nsight Compute; why nothing was counted, None where it was."""
    words = [ncu, "--csv", "--log-file", str(log), "--metrics", ",".join(METRICS), "--clock-control", "none"]
    words += ["--profile-from-start", "off", sys.executable, "-m", "bench.gpu_acceptance.dram_bytes"]
    try:
        ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=max(seconds, 1), check=False)
    except subprocess.TimeoutExpired:
        return f"ncu was not done after {seconds:.0f} s"
    said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    if ended.returncode or METRICS[0] not in said:
        return "ncu counted nothing: " + " ".join((ended.stderr + said + ended.stdout).split())[-300:]
    return None


def read_bytes(lines: Iterable[str]) -> dict[str, float]:
    """Bytes read and written by kernel, out of ncu's CSV; one launch of each is expected, of more the mean is given."""
    table = [line for line in lines if line.startswith('"')]
    totals: dict[str, float] = defaultdict(float)
    launches: dict[str, set[str]] = defaultdict(set)
    for row in csv.DictReader(table):
        if row["Metric Name"] in METRICS:
            value = float(row["Metric Value"].replace(",", "")) * UNITS[row["Metric Unit"]]
            totals[row["Kernel Name"]] += value
            launches[row["Kernel Name"]].add(row["ID"])
    return {name: total / len(launches[name]) for name, total in totals.items()}


if __name__ == "__main__":
    profiled(torch.device("cuda"))
