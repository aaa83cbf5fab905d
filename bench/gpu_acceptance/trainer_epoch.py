"""Epochs through `dat train`'s own path: the wall time of the second, validation and checkpoint included."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from bench.gpu_acceptance import targets
from bench.gpu_acceptance.headline_gates import needs_of
from bench.gpu_acceptance.made_up_cifar import missing_for_training, take_cifars_place
from bench.gpu_acceptance.records import Recorder, require
from bench.gpu_acceptance.setting import Setting
from bench.gpu_acceptance.subjects import DAT_GROUPED
from dat_engine.run.display.interface import Display, EpochRow

GATE = "trainer: two epochs by dat train"


class _Recorded(Display):
    """Says nothing and keeps the epochs."""

    def __init__(self) -> None:
        self.rows: list[EpochRow] = []

    def epoch_end(self, row: EpochRow) -> None:
        self.rows.append(row)


def run(setting: Setting, record: Recorder) -> None:
    reason = missing_for_training()
    if reason is not None:
        record.skipped(GATE, reason)
        return
    with record.gate(GATE) as notes:
        rows, folder = train_two_epochs(setting)
        require(len(rows) == 2, f"{len(rows)} epochs were shown")
        steps, in_steps = steps_of(folder / "metrics.jsonl")
        wall = rows[1].seconds
        record.figure("trainer: wall time of the second epoch", wall, "s", needs=(GATE,), note=f"{steps} steps")
        record.figure("trainer: of it in steps and their data", in_steps, "s", needs=(GATE,))
        timed = setting.earlier(f"step: {DAT_GROUPED}")
        alone = in_steps if timed is None else steps * timed / 1e3
        source = "its own steps'" if timed is None else f"as many of step_times, {DAT_GROUPED}"
        needs = (GATE,) if timed is None else (GATE, *needs_of(str(DAT_GROUPED)))
        note = f"{wall:.2f} s over {alone:.2f} s, {source}; validation with PGD-20 and checkpoints included"
        record.figure(targets.TRAINER, wall / alone, "x", needs=needs, note=note)
        notes.text = f"{wall:.2f} s, {in_steps:.2f} s of it in {steps} steps"


def train_two_epochs(setting: Setting) -> tuple[list[EpochRow], Path]:
    """The published recipe on CIFAR-10, or on images of its kind; the rows of its display, and its folder."""
    from dat.recipes import recipe
    from dat.training import train as training
    from dat.training.options import RunOptions

    if setting.data_root is None or setting.rehearsal:
        take_cifars_place(setting.pick(None, {"train": 24, "test": 8}))
    chosen = recipe("cifar10-resnet18", "dat")
    evaluation = replace(chosen.evaluation, attacks="natural", limit=setting.pick(1000, 8))
    chosen = replace(chosen, epochs=2, evaluation=evaluation)
    if setting.rehearsal:
        chosen = replace(
            chosen,
            batch_size=4,
            data=replace(chosen.data, validation=8),
            model=replace(chosen.model, name="resnet8", width=4),
            settings=replace(chosen.settings, steps=1),
        )
    folder = setting.work / "trainer epoch"
    display = _Recorded()
    options = RunOptions(
        data_root=setting.data_root or setting.work, run_dir=folder, device=str(setting.device), progress="silent"
    )
    usual = training.display_of
    training.display_of = lambda style, processes: display
    try:
        run = training.train_recipe(chosen, options)
    finally:
        training.display_of = usual
    require(run.ending == "finished", f"training ended by {run.ending}")
    return display.rows, folder


def steps_of(metrics: Path) -> tuple[int, float]:
    """Steps of the second epoch, and its seconds in steps and waiting for data, from the two rows that end an epoch."""
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    first, second = [row for row in rows if "epoch_loss" in row][:2]
    return second["step"] - first["step"], second["seconds"] - first["seconds"]
