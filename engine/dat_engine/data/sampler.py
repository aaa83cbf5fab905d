"""Which samples a process sees in an epoch, and where its randomness comes from: pure functions of the seed."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dat_engine.errors import UserError

__all__ = ["EpochSampler"]

# One tag for each use of the seed, so that no two draw the same numbers.
_ORDER_STREAM, _RANK_STREAM, _SAMPLE_STREAM, _STEP_STREAM, _VIEW_STREAM, _STEP_VIEW_STREAM = 1, 2, 3, 4, 5, 6
_MIXING_STREAM = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochSampler:
    """The sample order of every epoch for one of `world_size` processes.

    All processes draw the same permutation; step s takes its s-th run of world_size * batch_size entries, of which
    process `rank` gets every world_size-th. So the processes never share a sample, take equally many steps, and the
    samples of a step depend on world_size * batch_size alone.

    Raises UserError for values out of range, or where the samples do not fill one batch on every process.
    """

    num_samples: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch size is {self.batch_size}; use at least 1")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}; use 0 or a positive number")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"rank {self.rank} of {self.world_size} processes does not exist; "
                "world_size must be at least 1 and rank lie in 0..world_size-1"
            )
        if self.steps_per_epoch == 0:
            needed = self.batch_size * self.world_size
            largest = self.num_samples // self.world_size
            remedy = f"use a batch of at most {largest}" if largest else f"use at most {self.num_samples} processes"
            raise UserError(
                f"batch of {self.batch_size} on {self.world_size} process(es) needs {needed} images, "
                f"but the data set holds {self.num_samples}; {remedy}"
            )

    @property
    def steps_per_epoch(self) -> int:
        return self.num_samples // (self.batch_size * self.world_size)

    def check_position(self, epoch: int, start_step: int) -> None:
        """Raise ValueError unless the epoch is not negative and start_step lies in 0..steps_per_epoch."""
        if epoch < 0:
            raise ValueError(f"epoch is {epoch}; use 0 or a positive number")
        if not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(
                f"cannot start at step {start_step}: the epoch has {self.steps_per_epoch} steps; "
                f"use a step from 0 to {self.steps_per_epoch}"
            )

    def indices(self, epoch: int, device: torch.device) -> Tensor:
        """This process's sample positions of one epoch: int64 [steps_per_epoch, batch_size], drawn on `device`.

        CPU and CUDA generators differ, so all processes of a run must use the same kind of device.
        """
        generator = torch.Generator(device).manual_seed(self._derived_seed(_ORDER_STREAM, epoch))
        permutation = torch.randperm(self.num_samples, generator=generator, device=device)
        mine = permutation[self.rank :: self.world_size][: self.steps_per_epoch * self.batch_size]
        return mine.reshape(self.steps_per_epoch, self.batch_size)

    def generator(self, epoch: int, device: torch.device, view: int = 0) -> torch.Generator:
        """A fresh generator on `device` for this process's own draws in one epoch, another for every augmented view."""
        # the first view's numbers do not depend on whether there are others
        key = (_VIEW_STREAM, epoch, self.rank, view) if view else (_RANK_STREAM, epoch, self.rank)
        return torch.Generator(device).manual_seed(self._derived_seed(*key))

    def mixing_generator(self, epoch: int, device: torch.device) -> torch.Generator:
        """A fresh generator on `device` for what mixes the images of this process's batches with each other in one epoch."""
        return torch.Generator(device).manual_seed(self._derived_seed(_MIXING_STREAM, epoch, self.rank))

    def step_generator(self, epoch: int, step: int, view: int = 0) -> torch.Generator:
        """A fresh CPU generator for this process's own draws in one step, another for every augmented view."""
        key = (_STEP_VIEW_STREAM, epoch, self.rank, step, view) if view else (_STEP_STREAM, epoch, self.rank, step)
        return torch.Generator().manual_seed(self._derived_seed(*key))

    def sample_seed(self, epoch: int, position: int) -> int:
        """A seed for the sample at `position` of this process's epoch, 0 <= position < steps * batch_size."""
        return self._derived_seed(_SAMPLE_STREAM, epoch, self.rank, position)

    def _derived_seed(self, *key: int) -> int:
        # Neighbouring seeds of a generator need not give independent streams; NumPy's SeedSequence mixes them.
        return int(np.random.SeedSequence(self.seed, spawn_key=key).generate_state(1, np.uint64)[0])
