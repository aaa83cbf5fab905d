"""The figures that a training leaves while it runs: rows of metrics.jsonl and TensorBoard's charts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dat_engine.distributed import ONE_PROCESS, Processes
from dat_engine.run.display import Display
from dat_engine.run.plan import Position
from dat_engine.run.run_directory import RunDirectory
from dat_engine.step.means import StepMeans

NON_FINITE = "non-finite"
"""What the last row of metrics.jsonl gives as `ending` where too many steps in a row were not finite."""


class Figures:
    """Means of the steps' scalars, over the epoch and since the last row, and the rows that they are written in.

    Only the main process writes. The sums behind the means are part of a checkpoint.
    """

    def __init__(self, run: RunDirectory, display: Display, processes: Processes) -> None:
        self._run, self._display, self._processes = run, display, processes
        self._epoch, self._recent = StepMeans(), StepMeans()

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """One step's scalars; nothing waits for the device."""
        self._epoch.add(metrics)
        self._recent.add(metrics)

    @property
    def sums(self) -> dict[str, dict[str, Tensor]]:
        """This process's part of a checkpoint."""
        return {"epoch_sums": self._epoch.sums, "recent_sums": self._recent.sums}

    def take_up(self, sums: Mapping[str, dict[str, Tensor]]) -> None:
        """Go on from the `sums` that this process had."""
        self._epoch, self._recent = StepMeans(sums["epoch_sums"]), StepMeans(sums["recent_sums"])

    def take_up_of_all(self, parts: list[dict[str, Any]]) -> None:
        """Go on with the epoch of other processes, however many; what is since their last row is not in the next."""
        self._epoch = StepMeans.shared_out([part["epoch_sums"] for part in parts], self._processes)

    def so_far(self) -> tuple[float, float]:
        """This process's loss since the last row, and accuracy in [0, 1] over the epoch; the host waits for the device."""
        return self._recent.means(ONE_PROCESS)["loss"], self._epoch.means(ONE_PROCESS)["accuracy"]

    def log_step(self, position: Position, learning_rate: float, rate: float | None) -> None:
        """A row with the means since the last one, of all processes, in each of which this is called."""
        means = self._recent.means(self._processes)
        self._recent = StepMeans()
        self._write(
            {
                "step": position.step,
                "epoch": position.epoch + 1,
                **means,
                "lr": learning_rate,
                "seconds": position.seconds,
                "images_per_second": rate,
            }
        )
        speed = {} if rate is None else {"images_per_second": rate}
        self._chart("train", {**means, "lr": learning_rate, **speed}, position.step)
        if means["skipped"]:
            self._display.warn(
                f"step {position.step}: {means['skipped']:.0%} of the last steps were skipped as non-finite"
            )

    def log_rest(self, position: Position, learning_rate: float) -> None:
        """A row of the steps since the last one, where there are any."""
        if self._recent.sums:
            self.log_step(position, learning_rate, None)

    def epoch_means(self) -> dict[str, float]:
        """Over the epoch's steps of all processes, in each of which this is called."""
        return self._epoch.means(self._processes)

    def log_epoch(
        self,
        position: Position,
        means: Mapping[str, float],
        validation: Mapping[str, float],
        *,
        lr: float,
        best: bool,
        evaluated: str,
        damaged_files: int,
    ) -> None:
        """The row of the epoch that has just ended, with its `epoch_means`; the next one's begin."""
        self._epoch = StepMeans()
        self._write(
            {
                "step": position.step,
                "epoch": position.epoch,
                **{f"epoch_{name}": value for name, value in means.items()},
                **{f"validation_{name}": value for name, value in validation.items()},
                "lr": lr,
                "seconds": position.seconds,
                "best": best,
                "evaluated": evaluated,
                "damaged_files": damaged_files,
            }
        )
        self._chart("validation", validation, position.step)

    def log_divergence(self, position: Position) -> None:
        """The last row of a run in which too many steps in a row were not finite."""
        self._write({"step": position.step, "epoch": position.epoch + 1, "ending": NON_FINITE})

    def _write(self, row: Mapping[str, Any]) -> None:
        if self._processes.is_main:
            self._run.metrics.append(row)

    def _chart(self, chart: str, values: Mapping[str, float], step: int) -> None:
        if self._processes.is_main:
            self._run.add_scalars(chart, values, step)
