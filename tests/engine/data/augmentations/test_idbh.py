"""IDBH: CropShift and ColorShape by their published definitions, and the order of the parts."""

import pytest
import torch
from torchvision.transforms.v2 import functional

from dat_engine.data import IDBH, RandomErasing, unit_range
from dat_engine.data.augmentations.color_shape import ColorShape
from dat_engine.data.augmentations.crop_shift import CropShift
from dat_engine.data.augmentations.operations import Operation, apply_operations
from dat_engine.errors import UserError
from tests.engine.data.augmentations.pictures_of_levels import images, near_share, same_distribution

CPU = torch.device("cpu")
PUBLISHED = {  # the paper's table: operation, probability, range
    "color": {
        Operation.COLOR: (1 / 8, 0.1, 1.9),
        Operation.BRIGHTNESS: (1 / 8, 0.5, 1.9),
        Operation.CONTRAST: (1 / 8, 0.5, 1.9),
        Operation.SHARPNESS: (1 / 8, 0.1, 1.9),
        Operation.AUTOCONTRAST: (1 / 8, None, None),
        Operation.EQUALIZE: (1 / 8, None, None),
        "shear": (1 / 8, 0.05, 0.15),
        Operation.ROTATE: (1 / 8, 1, 11),
    },
    "shape": {
        Operation.COLOR: (0.08, 0.1, 1.9),
        Operation.BRIGHTNESS: (0.08, 0.5, 1.9),
        Operation.CONTRAST: (0.04, 0.5, 1.9),
        Operation.SHARPNESS: (0.08, 0.1, 1.9),
        Operation.AUTOCONTRAST: (0.04, None, None),
        Operation.EQUALIZE: (0.08, None, None),
        "shear": (0.3, 0.05, 0.35),
        Operation.ROTATE: (0.3, 1, 31),
    },
}


def draw(augmentation, count, shape=(3, 32, 32), seed=0):
    return augmentation.draw(count, shape, torch.Generator().manual_seed(seed), CPU)


def test_cropshift_crops_pads_and_crops_again():
    pictures = images(60, (3, 20, 14)).clamp_min(1)
    draws = draw(CropShift(share=0.8), 60, (3, 20, 14))
    found = CropShift().apply(unit_range(pictures), draws)
    columns = (draws[name].tolist() for name in ("cut", "start", "place"))
    for picture, view, (cut_y, cut_x), (top, left), (down, right) in zip(pictures, found, *columns, strict=True):
        part = functional.crop(picture, top, left, 20 - cut_y, 14 - cut_x)
        padded = functional.pad(part, [cut_x, cut_y])
        expected = functional.crop(padded, cut_y - down, cut_x - right, 20, 14)
        assert torch.equal(view, unit_range(expected))


def test_cropshift_is_drawn_as_published():
    n = 11_000
    draws = draw(CropShift(), n)
    strength = draws["cut"].sum(dim=1)
    counts = torch.bincount(strength, minlength=11).double()
    assert len(counts) == 11 and ((counts - 1000) ** 2 / 1000).sum() < 29.6  # 99.9 %, 10 degrees of freedom
    for name in ("start", "place"):
        assert (draws[name] >= 0).all() and (draws[name] <= draws["cut"]).all()
    generator = torch.Generator().manual_seed(9)
    across = torch.tensor([torch.randint(0, s + 1, (1,), generator=generator).item() for s in strength.tolist()])
    assert same_distribution(draws["cut"][:, 1], across)
    for name, axis in (("start", 0), ("start", 1), ("place", 0), ("place", 1)):
        own = [torch.randint(0, c + 1, (1,), generator=generator).item() for c in draws["cut"][:2500, axis].tolist()]
        assert same_distribution(draws[name][:2500, axis], torch.tensor(own)), (name, axis)
    assert draw(CropShift(), 4000, (1, 16, 16))["cut"].sum(dim=1).max() == 5  # 11 of 32 pixels are 5.5 of 16


@pytest.mark.parametrize("policy", PUBLISHED)
def test_colorshape_is_drawn_as_published(policy):
    n = 12_000
    draws = draw(ColorShape(policy=policy), n)
    operation, magnitude = draws["operation"], draws["magnitude"]
    for kind, (probability, low, high) in PUBLISHED[policy].items():
        sheared = (operation == Operation.SHEAR_X) | (operation == Operation.SHEAR_Y)
        of = sheared if kind == "shear" else operation == kind
        assert near_share(of, probability), kind
        if low is None:
            continue
        found = magnitude[of]
        if kind in ("shear", Operation.ROTATE):
            assert near_share(found > 0, 0.5)
            found = found.abs().atan() if kind == "shear" else found.abs()
        if kind == Operation.ROTATE:
            assert set(found.tolist()) == set(range(low, high))  # whole degrees, the upper end excluded
            continue
        assert found.min() >= low and found.max() <= high + 1e-9
        assert same_distribution(found, torch.linspace(low, high, 5000, dtype=torch.float64))
        if kind == "shear":
            assert near_share(operation[of] == Operation.SHEAR_X, 0.5)


def test_colorshape_does_what_was_drawn():
    pictures = images(50, (3, 18, 18))
    draws = draw(ColorShape(), 50)
    found = ColorShape().apply(unit_range(pictures), draws)
    assert torch.equal(found, unit_range(apply_operations(pictures.float(), draws["operation"], draws["magnitude"])))


@pytest.mark.parametrize("augmentation", [ColorShape(), ColorShape(policy="shape"), IDBH()], ids=repr)
def test_a_sample_by_itself_is_what_a_batch_of_one_is(augmentation):
    with torch.random.fork_rng():
        for seed, picture in enumerate(images(40, (3, 18, 18), seed=3)):
            torch.manual_seed(seed)
            alone = augmentation.apply_to_sample(picture)
            torch.manual_seed(seed)
            draws = augmentation.draw(1, (3, 18, 18), torch.default_generator, CPU)
            assert torch.equal(unit_range(alone), augmentation.apply(unit_range(picture[None]), draws)[0])


def test_idbh_shifts_then_colours_then_erases():
    pictures = images(30, (3, 16, 16)).clamp_min(1)
    weak, strong = IDBH(), IDBH(erasing=RandomErasing(probability=1.0))
    draws = draw(strong, 30, (3, 16, 16))
    expected = CropShift().apply(unit_range(pictures), draws)
    expected = ColorShape().apply(expected, draws)
    expected = RandomErasing().apply(expected, draws)
    assert torch.equal(strong.apply(unit_range(pictures), draws), expected)
    erased = draw(weak, 4000)["box"]
    assert near_share(erased[:, 2] > erased[:, 0], 0.5)
    assert "cut" not in draw(IDBH(crop_shift=None), 3)


def test_what_idbh_cannot_do_is_refused():
    with pytest.raises(UserError, match="ColorShape changes colours and these images have 4 channels; it needs 1 "):
        IDBH().check((4, 8, 8), 2)
    with pytest.raises(UserError, match=r"CropShift's share is 2; use a part of the image's edge in \(0, 1\]"):
        CropShift(share=2)
