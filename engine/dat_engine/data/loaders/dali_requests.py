"""What a DALI pipeline is asked for, batch by batch, and who is to blame when it fails."""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from dat_engine.data.arrays import ImageArrays
from dat_engine.data.augmentations.crop import RandomResizedCrop, draw_windows
from dat_engine.data.files.corrupt import CorruptFiles
from dat_engine.data.files.decoding import CorruptImage, examine, size_in_file
from dat_engine.data.files.files import ImageFiles
from dat_engine.data.loaders.dali_pipeline import ViewsPipeline, array_views, centre_and_window_views, centre_views
from dat_engine.data.sampler import EpochSampler

__all__ = ["ArrayRequests", "FileRequests", "WindowRequests"]


class ArrayRequests:
    """Images in memory, gathered on the CPU."""

    damaged_files: tuple[str, ...] = ()

    def __init__(self, arrays: ImageArrays) -> None:
        self._images = arrays.images.cpu()

    def pipeline(self, *, batch_size: int, threads: int, device: torch.device) -> ViewsPipeline:
        """A new pipeline that answers these requests with (originals,)."""
        return array_views(batch_size=batch_size, threads=threads, device=device)

    def usable(self, index: int) -> int:
        """The sample to ask for in place of this one."""
        return index

    def request(self, indices: list[int], epoch: int, step: int) -> Any:
        """What to hand to the pipeline for these samples at this position."""
        return self._images[indices].numpy()

    def find_damage(self, batches: Iterable[list[int]], *, threads: int, device: torch.device) -> bool:
        """Whether these batches hold samples that explain why the pipeline failed; they are noted then."""
        return False


class FileRequests:
    """Files, each as a whole.

    The header of a file is read here the first time that the file is wanted, and its size is kept: DALI is not given what is
    no image at all. It reports an empty file, or one of random bytes, as an error, but with two or more decoder threads that
    error has been seen to end in a segmentation fault. (Measured: 40 µs of CPU time per file, once, where decoding takes
    220 µs at 64 pixels and 800 µs at 224.)
    """

    def __init__(self, files: ImageFiles) -> None:
        self._files = files
        self._damaged = CorruptFiles(files)
        self._sizes = torch.zeros(len(files), 2, dtype=torch.int32)  # (0, 0): not known yet

    @property
    def damaged_files(self) -> tuple[str, ...]:
        return self._damaged.paths

    def pipeline(self, *, batch_size: int, threads: int, device: torch.device) -> ViewsPipeline:
        """A new pipeline that answers these requests with (originals,)."""
        return centre_views(self._files, batch_size=batch_size, threads=threads, device=device)

    def usable(self, index: int) -> int:
        """The sample to ask for in place of this one: itself unless it is known to be damaged, or found here to be.

        Raises DataError where a file cannot be read, or damaged ones are fatal.
        """
        index = self._damaged.stand_in(index)
        while not self._sizes[index].any():
            try:
                self._sizes[index] = torch.tensor(size_in_file(self._files.paths[index]), dtype=torch.int32)
            except CorruptImage as error:
                self._damaged.record(index, str(error))
                index = self._damaged.stand_in(index)
        return index

    def request(self, indices: list[int], epoch: int, step: int) -> Any:
        """What to hand to the pipeline for these samples at this position."""
        return [np.frombuffer(os.fsencode(self._files.paths[index]), dtype=np.uint8) for index in indices]

    def find_damage(self, batches: Iterable[list[int]], *, threads: int, device: torch.device) -> bool:
        """Whether these batches hold damaged files: those of the first batch that has any are recorded.

        Raises DataError where a file cannot be read, or damaged ones are fatal.
        """
        batches = list(batches)
        for indices in batches:
            if [index for index in indices if examine(index, self._damaged)]:
                return True
        # Nothing that Pillow minds: DALI itself, file by file.
        for index in (index for indices in batches for index in indices):
            if not self._decodes_alone(index, threads, device):
                self._damaged.record(index, "NVIDIA DALI cannot decode it")
                return True
        return False

    def _decodes_alone(self, index: int, threads: int, device: torch.device) -> bool:
        try:
            list(self.pipeline(batch_size=1, threads=threads, device=device).run(iter([self.request([index], 0, 0)])))
        except RuntimeError:
            return False
        return True


class WindowRequests(FileRequests):
    """Files, each with the random windows that are to be cut out of it, one for every augmented view.

    A window depends on the file's size.
    """

    def __init__(self, files: ImageFiles, augmentation: RandomResizedCrop, order: EpochSampler, views: int) -> None:
        super().__init__(files)
        self._augmentation = augmentation
        self._order = order
        self._views = range(views)

    def pipeline(self, *, batch_size: int, threads: int, device: torch.device) -> ViewsPipeline:
        """A new pipeline that answers these requests with (originals, windows, ...)."""
        return centre_and_window_views(
            self._files, windows=len(self._views), batch_size=batch_size, threads=threads, device=device
        )

    def request(self, indices: list[int], epoch: int, step: int) -> Any:
        """What to hand to the pipeline for these samples at this position."""
        sizes = self._sizes[indices]
        windows = (
            draw_windows(self._augmentation, sizes, self._order.step_generator(epoch, step, view))
            for view in self._views
        )
        return super().request(indices, epoch, step), *(list(window.numpy()) for window in windows)
