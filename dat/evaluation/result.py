"""What an evaluation found: accuracies in percent, and the prediction for every image."""

from __future__ import annotations

import csv
import io
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dat.evaluation.attacks import TITLES
from dat_engine.errors import UserError
from dat_engine.run.durable_file import replacing

NOT_FINITE = -1
"""Prediction for an image whose logits are not finite; never correct."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Share of correct predictions under one attack, with the number of images it was counted on."""

    attack: str
    percent: float
    images: int

    @property
    def standard_error(self) -> float:
        """Binomial standard error in percentage points."""
        share = self.percent / 100
        return 100 * math.sqrt(share * (1 - share) / self.images)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Predictions:
    """The model's class for every image under every attack, in the order of the images; int64 on the CPU.

    indices: [N], position of each image in the data; targets: [N]; predicted: attack -> [N], -1 where the logits were not
    finite.
    """

    indices: Tensor
    targets: Tensor
    predicted: Mapping[str, Tensor]

    def correct(self, attack: str) -> Tensor:
        """bool [N]"""
        return self.predicted[attack] == self.targets

    def save(self, path: Path | str) -> None:
        """Write a CSV file, whole or not at all: ``index, target``, then ``NAME`` and ``NAME_correct`` (0 or 1) per attack.

        Raises:
            UserError: a path that cannot be written; see `check_writable`.
        """
        path = Path(path)
        check_writable(path)
        columns = {"index": self.indices, "target": self.targets}
        for name, predicted in self.predicted.items():
            columns |= {name: predicted, f"{name}_correct": self.correct(name).long()}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(torch.stack(list(columns.values()), dim=1).tolist())
        with replacing(path) as file:
            file.write(text.getvalue().encode())


def check_writable(path: Path) -> None:
    """Raise UserError unless a CSV file of predictions can be written at `path`; leaves no trace."""
    if path.suffix != ".csv":
        raise UserError(f"predictions are saved as CSV; give a file name that ends in .csv, not {path}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file for the predictions")
    if not path.parent.is_dir():
        raise UserError(f"the folder {path.parent} of {path.name} does not exist; make it, or name another file")
    trial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.trial")
    try:
        os.close(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        trial.unlink()
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); name a file in a folder that can") from error


class Evaluation(Mapping[str, float]):
    """Accuracy in percent by attack: ``result["pgd20"]``.

    Attributes:
        epsilon: L-infinity radius in image units.
        predictions: the class predicted for every image under every attack.
    """

    def __init__(self, predictions: Predictions, epsilon: float) -> None:
        self.predictions = predictions
        self.epsilon = epsilon
        self._accuracies = {
            name: Accuracy(
                attack=name,
                percent=100.0 * int(predictions.correct(name).sum()) / len(predictions.targets),
                images=len(predictions.targets),
            )
            for name in predictions.predicted
        }

    def __getitem__(self, attack: str) -> float:
        return self._accuracies[attack].percent

    def __iter__(self) -> Iterator[str]:
        return iter(self._accuracies)

    def __len__(self) -> int:
        return len(self._accuracies)

    @property
    def images(self) -> int:
        """Number of images that every accuracy was counted on."""
        return len(self.predictions.targets)

    @property
    def accuracies(self) -> tuple[Accuracy, ...]:
        """In the order in which the attacks were asked for."""
        return tuple(self._accuracies.values())

    def standard_error(self, attack: str) -> float:
        """Binomial standard error of ``self[attack]`` in percentage points."""
        return self._accuracies[attack].standard_error

    def titled(self) -> dict[str, float]:
        """Accuracies under the attacks' display names."""
        return {TITLES[name]: percent for name, percent in self.items()}

    def __repr__(self) -> str:
        figures = ", ".join(
            f"{TITLES[found.attack]} {found.percent:.1f} ± {found.standard_error:.1f} %" for found in self.accuracies
        )
        return f"Evaluation({figures}; {self.images} images, epsilon {self.epsilon:.4g})"
