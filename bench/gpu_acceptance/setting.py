"""How a section is run: for real on a GPU, or rehearsed on the CPU at tiny sizes and with a stand-in clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from bench.gpu_acceptance.records import Recorder, read

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Where, at which sizes and until when a section works."""

    device: torch.device
    rehearsal: bool
    """On the CPU: every line of the section runs, no time is meant."""
    data_root: Path | None
    """Folder with CIFAR-10; None: images are made up."""
    work: Path
    """Folder of this run: the records of all sections so far, and room for scratch files."""
    ends: float
    """`time.monotonic()` at which the section is stopped."""
    optional: bool = False
    """Whether what there is no time for may be left out."""
    train_minutes: float = 0.0
    """Of training per method in the section `training`; 0: none."""

    def pick(self, real: Value, rehearsed: Value) -> Value:
        return rehearsed if self.rehearsal else real

    @property
    def time_left(self) -> float:
        """Seconds until the section is stopped."""
        return self.ends - time.monotonic()

    def earlier(self, figure: str) -> float | None:
        """Value of a figure that some section of this run has recorded already."""
        _, figures = read(sorted(self.work.glob("*.jsonl")))
        return next((found.value for found in figures if found.name == figure), None)

    def in_time(self, record: Recorder, gate: str, seconds: float = 5.0) -> bool:
        """Whether at least `seconds` are left; if not, `gate` is put down as unfinished, where it may be as skipped."""
        if self.time_left > seconds:
            return True
        self.out_of_time(record, gate)
        return False

    def out_of_time(self, record: Recorder, *gates: str) -> None:
        """Put these down as unfinished, where that may be as skipped."""
        for gate in gates:
            (record.skipped if self.optional else record.unfinished)(gate, "the section's time was used up")
