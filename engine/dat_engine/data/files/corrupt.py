"""The damaged files of a split: found, reported by path, and replaced or fatal."""

import warnings

from dat_engine.data.errors import DataError
from dat_engine.data.files.files import ImageFiles

__all__ = ["CorruptFiles"]

# A broken disk or a wrong data set, not single damaged files.
_TOO_MANY_IN_A_ROW = 100


class CorruptFiles:
    """What is known of the files of a split that cannot be decoded.

    Filled while the files are used: nothing is read in advance. The sample that stands in for a damaged one is the
    next one of the split that is not damaged, so it depends on the files alone and not on who found out when.
    """

    def __init__(self, files: ImageFiles) -> None:
        self.files = files
        self._reasons: dict[int, str] = {}

    @property
    def paths(self) -> tuple[str, ...]:
        """The damaged files found so far, in the order of the split."""
        return tuple(self.files.paths[index] for index in sorted(self._reasons))

    def record(self, index: int, reason: str) -> None:
        """Note that the file of this sample is damaged, with a warning the first time.

        Raises DataError where damaged files are fatal, or where there are too many of them to go on.
        """
        path = self.files.paths[index]
        if self.files.on_damaged == "fatal":
            raise DataError(
                f"image file {path} is damaged ({reason}); replace it, delete it, or choose to skip damaged files"
            ) from None
        if index in self._reasons:
            return
        self._reasons[index] = reason
        if len(self._reasons) == len(self.files):
            raise DataError(
                f"all {len(self.files)} image files are damaged ({path}: {reason}); check the data set"
            ) from None
        if self._neighbours(index) >= _TOO_MANY_IN_A_ROW:
            raise DataError(
                f"{_TOO_MANY_IN_A_ROW} image files in a row are damaged, {path} among them ({reason}); "
                "check the data set and the disk"
            ) from None
        warnings.warn(
            f"image file {path} is damaged ({reason}) and is skipped; {len(self._reasons)} so far", stacklevel=2
        )

    def stand_in(self, index: int) -> int:
        """The sample to use in place of this one: itself unless it is known to be damaged."""
        while index in self._reasons:
            index = (index + 1) % len(self.files)
        return index

    def _neighbours(self, index: int) -> int:
        """Length of the run of damaged files that this one is part of."""
        first, last = index, index
        while first - 1 in self._reasons:
            first -= 1
        while last + 1 in self._reasons:
            last += 1
        return last - first + 1
