"""The augmentations by name through every loader: the same numbers on resuming, others on every process, one distribution."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dat_engine.data import (
    AUGMENTATIONS,
    IDBH,
    Augmentation,
    AutoAugment,
    Batch,
    CutMix,
    Cutout,
    ImageArrays,
    RandomResizedCrop,
    named_augmentation,
    open_loader,
)
from dat_engine.data.sampler import EpochSampler
from dat_engine.errors import UserError
from tests.engine.data.augmentations.pictures_of_levels import images
from tests.engine.data.comparisons import assert_same_batches, joined
from tests.engine.data.pictures import needs_dali

NAMES = list(AUGMENTATIONS)
SHAPE = (3, 16, 16)
CROP = Augmentation(padding=2, flip=True)
LOADERS = ["resident", pytest.param("dali", marks=needs_dali), "torchvision"]


def arrays(count=24, shape=SHAPE):
    return ImageArrays(
        images=images(count, shape, seed=7).clamp_min(1), targets=torch.arange(count) % 4, class_names=tuple("abcd")
    )


def augmentation(name, crop=CROP, data_set="cifar10", image_shape=SHAPE):
    return named_augmentation(name, crop, data_set=data_set, image_shape=image_shape)


def loader(kind, name, source=None, **settings):
    settings = {"batch_size": 6, "seed": 3, "device": "cpu", "workers": 1 if kind == "dali" else 0, **settings}
    return open_loader(kind, source or arrays(), augmentation=augmentation(name), **settings)


def extra_views(batches):
    return torch.cat([batch.extra_views for batch in batches], dim=1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", LOADERS)
def test_an_epoch_from_the_middle_is_the_rest_of_the_whole(kind, name):
    state = torch.get_rng_state()
    opened = loader(kind, name, extra_views=1, extra_augmentation=augmentation("autoaugment"))
    whole = list(opened.epoch(2))
    rest = list(opened.epoch(2, start_step=2))
    assert_same_batches(rest, whole[2:])
    assert torch.equal(extra_views(rest), extra_views(whole[2:]))
    assert not torch.equal(next(opened.epoch(3)).images, whole[0].images)
    assert torch.equal(torch.get_rng_state(), state)
    for batch in whole:
        for view in (batch.images, batch.originals, *batch.extra_views):
            assert view.dtype == torch.float32 and torch.equal(view, (view * 255).round() / 255)
            assert view.min() >= 0 and view.max() <= 1
        assert not torch.equal(batch.extra_views[0], batch.images)


@needs_dali
@pytest.mark.parametrize("name", NAMES)
def test_resident_and_dali_agree_to_the_bit(name):
    settings = {"extra_views": 1, "extra_augmentation": augmentation("idbh")}
    one, other = (list(loader(kind, name, **settings).epoch(1)) for kind in ("resident", "dali"))
    assert_same_batches(one, other)
    assert torch.equal(extra_views(one), extra_views(other))


@pytest.mark.parametrize("name", NAMES)
def test_processes_draw_differently(name):
    source = arrays(12)
    source = ImageArrays(
        images=source.images[:1].repeat(12, 1, 1, 1), targets=source.targets, class_names=source.class_names
    )
    source.images[...] = torch.arange(256).view(16, 16).to(torch.uint8)  # one picture: what differs is drawn
    first, second = (next(loader("resident", name, source, rank=rank, world_size=2).epoch(0)).images for rank in (0, 1))
    assert torch.equal(first, second) == (name == "none")


@pytest.mark.parametrize("name", NAMES)
def test_only_what_mixes_touches_originals_and_labels(name):
    source = arrays()
    batches = list(loader("resident", name, source).epoch(0))
    indices, targets = joined(batches, "indices"), joined(batches, "targets")
    plain = torch.equal(joined(batches, "originals"), (source.images[indices].double() / 255).float())
    assert plain == (name != "cutmix")
    if name == "cutmix":
        assert targets.shape == (24, 4) and targets.dtype == torch.float32
        assert ((targets > 0).sum(dim=1) == 2).any()
    else:
        assert torch.equal(targets, source.targets[indices])
    assert torch.equal(joined(batches, "images"), joined(batches, "originals")) == (name == "none")


@pytest.mark.parametrize("name", NAMES[2:])
def test_torchvisions_form_has_the_same_distribution(name):
    grey = torch.full((1, *SHAPE), 100, dtype=torch.uint8)
    grey[:, 0] = 150
    grey[:, :, 4:12, 4:9] = 200
    source = ImageArrays(images=grey.repeat(400, 1, 1, 1), targets=torch.arange(400) % 4, class_names=tuple("abcd"))
    views = [
        joined(loader(kind, name, source, batch_size=100).epoch(0), "images") for kind in ("resident", "torchvision")
    ]
    for feature in (
        lambda view: (view == 0).flatten(1).double().mean(dim=1),
        lambda view: view.flatten(1).double().mean(dim=1),
        lambda view: view[:, 0].flatten(1).double().std(dim=1),
        lambda view: view[:, :, :, :8].flatten(1).double().mean(dim=1),
    ):
        points = torch.cat([feature(view) for view in views]).round(decimals=6).sort().values
        below = [
            torch.searchsorted(feature(view).round(decimals=6).sort().values, points, right=True) / 400
            for view in views
        ]
        assert (below[0] - below[1]).abs().max() < 1.95 * (2 / 400) ** 0.5


@pytest.mark.parametrize("name", NAMES[2:])
def test_no_augmentation_waits_for_the_device(name):
    """Under fake tensors whatever asks for a value raises."""
    then = augmentation(name).then
    sizes = (1, 8) if isinstance(then, CutMix) else (8,)
    draws = then.draw(*sizes, SHAPE, torch.Generator(), torch.device("cpu"))
    with FakeTensorMode() as fake:
        drawn = {key: fake.from_tensor(values) for key, values in draws.items()}
        images = torch.empty(8, *SHAPE)
        if isinstance(then, CutMix):
            targets = torch.zeros(8, dtype=torch.int64)
            batch = Batch(images=images, originals=images, targets=targets, indices=targets)
            mixed = then.apply(batch, {key: values[0] for key, values in drawn.items()}, 4)
            assert mixed.targets.shape == (8, 4) and mixed.images.shape == images.shape
        else:
            assert then.apply(images, drawn).shape == images.shape


def test_names_stand_for_the_published_settings():
    assert augmentation("standard") == CROP
    assert augmentation("none") == Augmentation(padding=0, flip=False)
    assert augmentation("cutout").then == Cutout(share=1 / 2)
    assert augmentation("cutout", data_set="cifar100").then == Cutout(share=1 / 4)
    assert augmentation("autoaugment").then == AutoAugment(policy="cifar10")
    assert augmentation("autoaugment", image_shape=(3, 224, 224)).then == AutoAugment(policy="imagenet")
    assert augmentation("idbh") == Augmentation(padding=0, flip=True, then=IDBH())
    resized = RandomResizedCrop(flip=False)
    assert augmentation("idbh", resized) == RandomResizedCrop(flip=False, then=IDBH(crop_shift=None))
    assert augmentation("cutmix", resized) == RandomResizedCrop(flip=False, then=CutMix())
    with pytest.raises(UserError, match="no augmentation is called 'cutmx'; did you mean cutmix"):
        augmentation("cutmx")


@pytest.mark.parametrize("name", ["cutout", "autoaugment", "idbh"])
@pytest.mark.parametrize("kind", LOADERS[1:])
def test_windows_of_files_are_augmented_too(kind, name, jpegs):
    files = jpegs(12, sizes=((24, 20),))
    chosen = augmentation(name, RandomResizedCrop())
    settings = {"batch_size": 6, "seed": 1, "device": "cpu", "workers": 1}
    with_it, without = (
        list(open_loader(kind, files, augmentation=each, **settings).epoch(0)) for each in (chosen, RandomResizedCrop())
    )
    for one, other in zip(with_it, without, strict=True):
        assert torch.equal(one.originals, other.originals) and not torch.equal(one.images, other.images)


def test_digits_are_not_mirrored_by_any_augmentation():
    """Nothing of an augmentation mirrors: only the crop's own flip does."""
    half = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    half[..., :5] = 200
    source = ImageArrays(
        images=half.repeat(400, 1, 1, 1), targets=torch.zeros(400, dtype=torch.int64), class_names=("1",)
    )
    for name in NAMES:
        chosen = augmentation(name, Augmentation(padding=1, flip=False), image_shape=(1, 16, 16))
        assert not chosen.flip
        if name in ("standard", "none", "cutout", "cutmix"):
            opened = open_loader("resident", source, batch_size=50, augmentation=chosen, seed=0, device="cpu")
            assert not joined(opened.epoch(0), "images")[..., 8:].any()


@pytest.mark.parametrize(
    ("first", "extra", "message"),
    [
        (CROP, augmentation("cutmix"), "CutMix gives all views of an image one soft label, so the extra views cannot"),
        (RandomResizedCrop(), augmentation("autoaugment"), "a random resized crop has to be the same for all views"),
    ],
)
def test_views_that_do_not_go_together_are_refused(first, extra, message, jpegs):
    with pytest.raises(UserError, match=message):
        open_loader(
            "torchvision",
            jpegs(8),
            batch_size=4,
            augmentation=first,
            seed=0,
            device="cpu",
            extra_views=1,
            extra_augmentation=extra,
        )


@pytest.mark.parametrize("kind", LOADERS)
def test_images_and_batches_that_cannot_be_augmented_so_are_refused(kind):
    settings = {"seed": 0, "device": "cpu", "workers": 1}
    with pytest.raises(UserError, match="AutoAugment changes colours and these images have 2 channels"):
        open_loader(kind, arrays(8, (2, 16, 16)), batch_size=4, augmentation=augmentation("autoaugment"), **settings)
    with pytest.raises(UserError, match="use a batch of at least 2, not 1"):
        open_loader(kind, arrays(8), batch_size=1, augmentation=augmentation("cutmix"), **settings)


def test_what_mixes_draws_anew_in_every_epoch_and_process_and_apart_from_the_views():
    def numbers(generator):
        return tuple(torch.rand(4, generator=generator).tolist())

    cpu = torch.device("cpu")
    drawn = [
        numbers(make(epoch, cpu))
        for rank in (0, 1)
        for order in [EpochSampler(num_samples=24, batch_size=6, seed=3, rank=rank, world_size=2)]
        for epoch in (0, 1)
        for make in (order.mixing_generator, order.generator)
    ]
    assert len(set(drawn)) == len(drawn)
    again = EpochSampler(num_samples=24, batch_size=6, seed=3, rank=0, world_size=2)
    assert numbers(again.mixing_generator(0, cpu)) == drawn[0]
