"""scikit-learn's handwritten digits: 1,797 grey images that come with the package, for trying things out."""

from pathlib import Path

import torch
from torch import Tensor

from dat_engine.data.arrays import DatasetDescription, ImageArrays

__all__ = ["DESCRIPTION", "read_digits"]

DESCRIPTION = DatasetDescription(image_shape=(1, 16, 16), class_names=tuple("0123456789"))

_BRIGHTEST = 16  # of the 8x8 grey values
_TEST_SHARE = 0.2
_SPLIT_SEED = 0  # part of the data set's definition: figures are comparable only on the same split


def read_digits(root: Path | None, split: str, download: bool) -> ImageArrays:
    """One split of the digits, bilinearly enlarged from 8x8 to 1x16x16; 80 % train, 20 % test of every class.

    `root` and `download` have no meaning here: the data are part of scikit-learn.
    """
    # Slow to import, and nothing but this data set needs it.
    from sklearn.datasets import load_digits

    digits = load_digits()
    targets = torch.from_numpy(digits.target).to(torch.int64)
    grey = torch.from_numpy(digits.images).to(torch.float32).unsqueeze(1) * (255 / _BRIGHTEST)
    enlarged = torch.nn.functional.interpolate(grey, size=DESCRIPTION.image_shape[1:], mode="bilinear")
    arrays = ImageArrays(images=enlarged.round().to(torch.uint8), targets=targets, class_names=DESCRIPTION.class_names)
    in_test = _stratified_test_mask(targets)
    return arrays.select((in_test if split == "test" else ~in_test).nonzero().squeeze(1))


def _stratified_test_mask(targets: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(_SPLIT_SEED)
    in_test = torch.zeros(len(targets), dtype=torch.bool)
    for members in (torch.nonzero(targets == target).squeeze(1) for target in targets.unique()):
        shuffled = members[torch.randperm(len(members), generator=generator)]
        in_test[shuffled[: round(_TEST_SHARE * len(members))]] = True
    return in_test
