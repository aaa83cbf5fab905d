"""What a display of a training run shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochRow:
    """One epoch's line of the table. Accuracies in percent, `seconds` of training; None: not measured this epoch."""

    epoch: int  # counted from 1
    epochs: int
    loss: float
    robust_train_accuracy: float
    natural_accuracy: float | None = None
    pgd20_accuracy: float | None = None
    lr: float
    seconds: float
    best: bool = False


class Display:
    """The display's interface; this class itself is the silent display. A context manager: leaving it closes it."""

    def start(self, title_fields: Mapping[str, object], *, epochs: int | None = None) -> None:
        """Show once what is run: recipe, method, device, precision, parameters, in the order given, ints grouped."""

    def step(
        self,
        epoch: int,
        step_in_epoch: int,
        steps_per_epoch: int,
        loss: float,
        accuracy: float | None,
        images_per_second: float,
        seconds_left: float | None,
    ) -> None:
        """Report a step; `epoch` and `step_in_epoch` count from 1, `accuracy` (robust, on the batch) is in percent.

        `seconds_left` is for the whole run. Rates are smoothed here: give them as measured since the last call.
        """

    def activity(self, text: str) -> None:
        """Name what goes on between steps ("validating", "capturing the graph"), until the next step."""

    def epoch_end(self, row: EpochRow) -> None:
        """Add a permanent row."""

    def note(self, text: str) -> None:
        """Show a line that stays."""

    def warn(self, text: str) -> None:
        """Show a line that stays and is marked as a warning."""

    def summary(self, accuracies: Mapping[str, float], *, title: str = "accuracy") -> None:
        """Show the final table: accuracy in percent by attack."""

    def close(self) -> None:
        """Leave the terminal as it was; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
