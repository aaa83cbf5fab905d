"""AutoAugment: its policies, its draws and their use, against torchvision's."""

import pytest
import torch
from torchvision.transforms import v2

from dat_engine.data import AutoAugment, unit_range
from dat_engine.data.augmentations.autoaugment_policies import CIFAR10, IMAGENET
from dat_engine.data.augmentations.operations import Operation, apply_operations
from dat_engine.errors import UserError
from tests.engine.data.augmentations.pictures_of_levels import images, near_share
from tests.engine.data.augmentations.test_operations import NAMES, magnitudes_of_autoaugment

CPU = torch.device("cpu")
SHAPE = (3, 32, 32)
POLICIES = {"cifar10": CIFAR10, "imagenet": IMAGENET}


def draw(count, policy="cifar10", seed=0):
    return AutoAugment(policy=policy).draw(count, SHAPE, torch.Generator().manual_seed(seed), CPU)


@pytest.mark.parametrize("name", POLICIES)
def test_policies_are_torchvisions(name):
    theirs = v2.AutoAugment(v2.AutoAugmentPolicy(name))._policies
    ours = [tuple((NAMES[part.operation], part.probability, part.level) for part in pair) for pair in POLICIES[name]]
    assert ours == [tuple((kind, share, level or 0) for kind, share, level in pair) for pair in theirs]


@pytest.mark.parametrize("name", POLICIES)
def test_draws_are_distributed_as_torchvisions(name, monkeypatch):
    n = 4000
    transform, done = v2.AutoAugment(v2.AutoAugmentPolicy(name)), []

    def note(image, kind, magnitude, **_):
        done[-1].append((kind, round(magnitude, 5)))
        return image

    monkeypatch.setattr(transform, "_apply_image_or_video_transform", note)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(n):
            done.append([])
            transform(torch.empty(SHAPE, dtype=torch.uint8))
    ours_of = {
        (NAMES[kind], round(theirs, 5)): (int(kind), round(ours, 5))
        for kind in NAMES
        for theirs, ours in magnitudes_of_autoaugment(kind, SHAPE)
    }
    theirs = [tuple(ours_of[each] for each in one) for one in done]
    drawn = draw(n, name)
    ours = [
        tuple((kind, round(strength, 5)) for kind, strength in zip(kinds, strengths, strict=True) if kind)
        for kinds, strengths in zip(drawn["operation"].tolist(), drawn["magnitude"].tolist(), strict=True)
    ]
    outcomes = sorted(set(theirs) | set(ours))
    assert len(outcomes) > 50
    counts = torch.tensor([[sample.count(each) for each in outcomes] for sample in (theirs, ours)]).double()
    often = counts.sum(0) >= 10
    squares = (counts[0] - counts[1]) ** 2 / counts.sum(0)
    degrees = int(often.sum()) - 1
    assert squares[often].sum() < degrees + 3.3 * (2 * degrees) ** 0.5 + 6  # about the 99.9 % quantile of chi-square
    assert counts[:, ~often].sum() < 0.02 * 2 * n


def test_both_operations_are_done_one_after_the_other():
    pictures = images(40, SHAPE)
    drawn = draw(40, seed=3)
    found = AutoAugment().apply(unit_range(pictures), drawn)
    once = apply_operations(pictures.float(), drawn["operation"][:, 0], drawn["magnitude"][:, 0])
    twice = apply_operations(once, drawn["operation"][:, 1], drawn["magnitude"][:, 1])
    assert torch.equal(found, unit_range(twice))
    both = (drawn["operation"] != Operation.IDENTITY).all(dim=1)
    assert both.any() and not torch.equal(once[both], twice[both])


def test_half_of_the_signed_operations_go_either_way():
    drawn = draw(8000)
    rotations = drawn["magnitude"][drawn["operation"] == Operation.ROTATE]
    assert near_share(rotations > 0, 0.5)


def test_a_sample_by_itself_is_torchvisions_own():
    (picture,) = images(1, SHAPE, seed=5)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        expected = v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET)(picture)
        torch.manual_seed(11)
        assert torch.equal(AutoAugment(policy="imagenet").apply_to_sample(picture), expected)


def test_images_of_other_channels_are_refused():
    for channels in (1, 3):
        AutoAugment().check((channels, 8, 8), 4)
    with pytest.raises(UserError, match="AutoAugment changes colours and these images have 2 channels; it needs 1"):
        AutoAugment().check((2, 8, 8), 4)
