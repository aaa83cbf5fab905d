"""`dat.Trainer`: the caller's own network and data, of every kind that is taken."""

import gc
import random
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import dat
from dat.recipes import AWPSettings, EMASettings
from dat_engine.data import Augmentation, CutMix, Cutout, DataError, ImageArrays

SETTING = {"epsilon": 0.1, "epochs": 2, "batch_size": 8, "device": "cpu", "progress": "silent", "precision": "fp32"}
generator = torch.Generator().manual_seed(0)
PIXELS = torch.randint(0, 256, (32, 1, 8, 8), generator=generator, dtype=torch.uint8)
LABELS = torch.randint(0, 3, (32,), generator=generator)
IMAGES = PIXELS.float() / 255
ONE_IS_DAMAGED = IMAGES.clone().index_fill_(0, torch.tensor(31), torch.nan)
SOFT = torch.softmax(torch.randn(32, 3, generator=generator), dim=1)


def network(normalisation=nn.BatchNorm2d) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        normalisation(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


class Pictures(Dataset):
    """PIL images, jittered by all three random states that a data set's own augmentation may use."""

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        jitter = random.random() + np.random.rand() + torch.rand(()).item()
        pixels = (PIXELS[index, 0].float() / 3 + 10 * jitter).to(torch.uint8)
        return Image.fromarray(pixels.numpy()), int(LABELS[index])


def losses(**setting) -> list[float]:
    values = {"model": network(), "method": "pgd-at", **SETTING, **setting}
    return [row["epoch_loss"] for row in dat.Trainer(values.pop("model"), values.pop("data"), **values).fit().history]


def test_every_kind_of_data_is_trained_on_and_equal_images_give_equal_losses():
    expected = losses(data=(PIXELS, LABELS))
    assert len(expected) == 2 and expected[0] != expected[1]
    arrays = ImageArrays(images=PIXELS, targets=LABELS, class_names=("a", "b", "c"))
    kinds = [
        (PIXELS.numpy(), LABELS.numpy()),
        (IMAGES, LABELS),
        (IMAGES, nn.functional.one_hot(LABELS, 3).float()),
        TensorDataset(PIXELS, LABELS),
        TensorDataset(IMAGES, LABELS),
        arrays,
    ]
    for data in kinds:
        assert losses(data=data) == pytest.approx(expected, rel=1e-5), type(data)


@pytest.mark.parametrize(
    "method",
    ["dat", "pgd-at", "trades", "dajat", "plain", dat.methods.DAT(beta=6, steps=2)],
    ids=["dat", "pgd-at", "trades", "dajat", "plain", "settings"],
)
def test_soft_labels_train_by_the_methods_that_take_them(method):
    as_given = (
        TensorDataset if method == "dajat" else lambda *tensors: tensors
    )  # whose further views are items fetched again
    ours, hard = (losses(data=as_given(IMAGES, labels), method=method, epochs=1) for labels in (SOFT, SOFT.argmax(1)))
    assert ours != hard and np.isfinite(ours).all()


def test_soft_labels_of_a_data_set_are_those_of_the_tensors():
    ours, theirs = (losses(data=data) for data in ((IMAGES, SOFT), TensorDataset(IMAGES, SOFT)))
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_the_networks_batchnorm_is_branched_in_place_and_no_logit_changes():
    model, before = network(), network().eval()
    trainer = dat.Trainer(model, (PIXELS, LABELS), method=dat.methods.DAT(steps=1), **SETTING)
    with torch.no_grad():
        assert torch.equal(model.eval()(IMAGES), before(IMAGES))
    model.train()
    assert {"1.base.weight", "1.mix.weight"} <= set(model.state_dict())
    fitted = trainer.fit()
    assert fitted.ending == "finished" and not model.training
    assert not torch.equal(model.state_dict()["1.base.running_mean"], model.state_dict()["1.mix.running_mean"])
    other = dat.models.convert_batchnorm(network(), ("base", "mix"))
    dat.Trainer(other, (PIXELS, LABELS), method=dat.methods.DAT(steps=1), **SETTING).fit()
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    "method",
    [
        "pgd-at",
        "trades",
        "mart",
        "st",
        "sar",
        dat.methods.DAT(steps=1, branches="shared"),
        dat.methods.DAT(mixed_image=False),
    ],
    ids=["pgd-at", "trades", "mart", "st", "sar", "shared", "unmixed"],
)
def test_every_group_of_the_joint_pass_is_normalised_by_itself(method):
    """As a recipe's network does: one update of the running statistics for each group."""
    model = network()
    trainer = dat.Trainer(model, (PIXELS, LABELS), method=method, **{**SETTING, "epochs": 1}, max_steps=1)
    trainer.fit()
    (counter,) = (value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked"))
    assert int(counter) == len(trainer._method.layout)
    branched = dat.models.convert_batchnorm(network(), ("base",))
    dat.Trainer(branched, (PIXELS, LABELS), method=method, **{**SETTING, "epochs": 1}, max_steps=1).fit()
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), branched.parameters(), strict=True))


def test_what_a_methods_paper_does_to_weights_and_images_is_done_unless_it_is_given():
    def trainer(method, **setting):
        return dat.Trainer(network(), (PIXELS, LABELS), method=method, **{**SETTING, "epochs": 4, **setting})

    sar, dajat, idbh = (trainer(method) for method in ("sar", "dajat", "idbh"))
    assert sar._swa.start == 3 and (sar._awp, sar._ema) == (AWPSettings(), EMASettings())
    assert dajat._awp == AWPSettings(gamma=0.005, start=9 * 4 / 200) and dajat._ema.decay == 0.9996
    assert idbh._ema.decay == 0.999 and trainer("idbh", ema=EMASettings())._ema.decay is None
    levels, plain = (
        next(each.loader.epoch(0)).images
        for each in (idbh, trainer("idbh", augmentation=Augmentation(padding=0, flip=False)))
    )
    assert not torch.equal(levels, plain) and torch.equal(plain, next(trainer("pgd-at").loader.epoch(0)).images)


@pytest.mark.parametrize(
    "data", [(IMAGES, LABELS), (PIXELS, SOFT), TensorDataset(PIXELS, LABELS)], ids=["floating", "soft", "data set"]
)
def test_an_augmentation_that_is_part_of_the_method_is_not_left_out_without_a_word(data):
    with pytest.raises(dat.UserError, match="idbh augments its images by idbh, which takes uint8 images"):
        dat.Trainer(network(), data, method="idbh", **SETTING)
    none = Augmentation(padding=0, flip=False)
    assert dat.Trainer(network(), data, method="idbh", augmentation=none, **SETTING).method == "idbh"


def test_a_timm_network_with_batchnorm_act_trains():
    timm = pytest.importorskip("timm", reason="the networks of timm: pip install 'dat-engine[test]'")
    model = timm.create_model("mobilenetv3_small_050", num_classes=3, in_chans=1)
    layers = [type(module).__name__ for module in model.modules()]
    assert "BatchNormAct2d" in layers
    data = (PIXELS[:8].repeat(1, 1, 4, 4), LABELS[:8])
    fitted = dat.Trainer(model, data, method=dat.methods.DAT(steps=1), **{**SETTING, "epochs": 1}).fit()
    assert np.isfinite(fitted.history[0]["epoch_loss"])
    assert "BranchedBatchNorm" in [type(module).__name__ for module in model.modules()]


def test_a_network_without_batchnorm_is_told_what_dat_loses():
    trainer = dat.Trainer(
        network(lambda width: nn.GroupNorm(2, width)), (PIXELS, LABELS), method=dat.methods.DAT(steps=1), **SETTING
    )
    with pytest.warns(UserWarning, match=r"has no BatchNorm, so the branches of dat share .* 51.36 -> 46.53"):
        trainer.fit()


def test_the_best_epoch_is_what_the_network_holds(tmp_path):
    model, path = network(), tmp_path / "run"
    setting = {**SETTING, "epochs": 3}
    fitted = dat.Trainer(
        model, (PIXELS, LABELS), method="pgd-at", validation=(IMAGES, SOFT), run_dir=path, **setting
    ).fit()
    again = dat.evaluate(model, (IMAGES, SOFT.argmax(1)), ["natural", "pgd20"], epsilon=0.1)
    assert dict(again) == fitted.accuracy
    assert max(row["validation_pgd20"] for row in fitted.history) == fitted.accuracy["pgd20"]
    with pytest.raises(dat.UserError, match=r"dat\.Trainer"):
        dat.load_model(path)


def data_loader() -> DataLoader:
    return DataLoader(Pictures(), batch_size=8, shuffle=True, collate_fn=collated)


def collated(items):
    images = torch.stack([torch.from_numpy(np.array(image))[None] for image, _ in items])
    return images, torch.tensor([label for _, label in items])


@pytest.mark.parametrize("make", [Pictures, data_loader], ids=["data set", "DataLoader"])
def test_own_augmentation_repeats_itself_and_a_resumed_fit_equals_a_whole_one(make, tmp_path):
    whole = network()
    torch.manual_seed(1)
    dat.Trainer(whole, make(), method="pgd-at", **SETTING).fit()
    parts = network()
    for max_steps, resume in ((5, False), (None, True)):  # in the middle of the second epoch
        torch.manual_seed(2 + resume)
        random.seed(2 + resume)
        before = torch.get_rng_state(), random.getstate()
        trainer = dat.Trainer(parts, make(), method="pgd-at", run_dir=tmp_path / "run", max_steps=max_steps, **SETTING)
        assert trainer.fit(resume=resume).ending == ("finished" if resume else "step limit")
        assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert all(torch.equal(one, two) for one, two in zip(whole.parameters(), parts.parameters(), strict=True))


def test_a_fit_does_not_go_on_with_another_augmentation(tmp_path):
    def trainer(then, **options):
        own = Augmentation(padding=1, flip=False, then=then)
        values = {"method": "plain", "augmentation": own, "run_dir": tmp_path / "run", **SETTING, **options}
        return dat.Trainer(network(), (PIXELS, LABELS), **values)

    trainer(Cutout(share=0.25), max_steps=1).fit()
    for other in (None, Cutout(share=0.5), CutMix()):
        with pytest.raises(dat.UserError, match="is a checkpoint of another"):
            trainer(other).fit(resume=True)
    assert trainer(Cutout(share=0.25)).fit(resume=True).ending == "finished"


def test_a_smaller_last_batch_of_a_dataloader_is_dropped():
    data = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=12)
    trainer = dat.Trainer(network(), data, method="plain", **SETTING)
    assert (trainer.loader.steps_per_epoch, trainer.loader.batch_size) == (2, 12)
    assert [len(batch.images) for batch in trainer.loader.epoch(0)] == [12, 12]


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"data": 3}, "data is a int; give"),
        ({"data": Endless()}, "Endless can only be iterated over"),
        ({"data": (IMAGES, LABELS[:3])}, r"labels \[3\]; give \[N, C, H, W\]"),
        ({"data": (PIXELS, LABELS + 5)}, r"labels run from 5 to 7 .* 0..2"),
        ({"data": (IMAGES[:4], LABELS[:4])}, "use a batch of at most 4"),
        ({"data": (IMAGES.expand(-1, 3, -1, -1), LABELS)}, "Sequential cannot take images of shape"),
        ({"data": (IMAGES, LABELS - 1)}, r"labels run from -1 to 1 .* 0..2"),
        ({"data": (ONE_IS_DAMAGED, LABELS)}, "images hold 64 values that are not finite"),
        ({"data": (2 * IMAGES, LABELS)}, "divide them by"),
        ({"data": (IMAGES, 2 * SOFT)}, "rows that sum to 2..2"),
        ({"data": (IMAGES, torch.cat([SOFT, SOFT], dim=1) / 2)}, "a model of 3 classes"),
        ({"validation": (IMAGES, LABELS + 1)}, r"validation: labels run from 1 to 3 .* 0..2"),
        ({"validation": (255 * IMAGES, LABELS)}, "validation: the images lie in"),
        ({"epsilon": "8/255"}, "epsilon is '8/255'; give a number"),
        ({"epochs": "2"}, "epochs must be a whole number"),
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"batch_size": 8.0}, "batch_size must be a whole number"),
        ({"optimizer": torch.optim.SGD(network().parameters(), 0.1)}, "optimizer is a SGD; give settings"),
        ({"schedule": "cosine"}, "schedule is a str; give settings"),
        ({"progress": "no"}, "progress must be one of"),
        ({"epsilon": 8}, r"epsilon must lie in \(0, 1\]"),
        ({"seed": "a"}, "seed must be a non-negative 63-bit number; got 'a'"),
        ({"method": "tradse"}, "did you mean trades"),
        ({"execution": "graphed"}, "use auto, eager or compiled"),
        (
            {"data": (IMAGES, LABELS), "method": "dajat"},
            "needs 2 further views of each image, augmented anew, and floating-point images",
        ),
        ({"data": (PIXELS, SOFT), "method": "dajat"}, "or soft labels are not augmented here; give uint8 images"),
        ({"model": nn.Conv2d(1, 3, 3)}, r"must give logits \[2, K\]"),
        ({"data": (IMAGES, LABELS), "augmentation": "crop"}, "augmentation is a str; give settings"),
        (
            {"data": (IMAGES, LABELS), "augmentation": Augmentation(padding=1, flip=False)},
            "augmentation is for uint8 images",
        ),
    ],
)
def test_wrong_input_is_one_sentence_and_the_network_is_as_it_was(change, sentence):
    values = {"model": network(), "data": (PIXELS, LABELS), "method": dat.methods.DAT(), **SETTING, **change}
    model = values.pop("model")
    names = list(model.state_dict())
    with pytest.raises(dat.UserError, match=sentence):
        dat.Trainer(model, values.pop("data"), **values)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (TensorDataset(2 * IMAGES, LABELS), "divide them by"),
        (TensorDataset(IMAGES, 2 * SOFT), "rows that sum to 2..2"),
        (TensorDataset(IMAGES, torch.cat([SOFT, SOFT], dim=1) / 2), "a model of 3 classes"),
    ],
)
def test_a_first_batch_that_cannot_be_trained_on_is_refused(data, sentence):
    with pytest.raises(DataError, match=sentence):
        losses(data=data)


@pytest.mark.parametrize(
    "wrap", [lambda data: data, lambda data: DataLoader(data, batch_size=8)], ids=["set", "loader"]
)
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda images, labels, one: labels.index_fill_(0, one, 7), r"labels from \d to 7 and the model has 3 classes"),
        (lambda images, labels, one: images.index_fill_(0, one, 255.0), r"images in \[0, 255\]"),
        (lambda images, labels, one: images.index_fill_(0, one, torch.nan), r"images in \[nan"),
    ],
    ids=["label", "range", "not finite"],
)
def test_a_later_batch_that_cannot_be_trained_on_ends_the_run_with_its_number(wrap, damage, sentence):
    images, labels = IMAGES.clone(), LABELS.clone()
    trainer = dat.Trainer(network(), wrap(TensorDataset(images, labels)), method="plain", **SETTING)
    damage(images, labels, list(trainer.loader.epoch(0))[2].indices[:1])
    with pytest.raises(DataError, match="batch 2 of the (data set|DataLoader) holds " + sentence):
        trainer.fit()


class LogitsInEvalModeAlone(nn.Module):
    """As torchvision's GoogLeNet and Inception with auxiliary outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, images):
        logits = self.network(images)
        return (logits, logits) if self.training else logits


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (nn.Linear, "the model is the class Linear"),
        (lambda images: images, "the model is a function"),
        (LogitsInEvalModeAlone(), "in training mode gives a tuple"),
    ],
    ids=["class", "function", "auxiliary outputs"],
)
def test_a_model_that_cannot_be_trained_is_refused(model, sentence):
    with pytest.raises(dat.UserError, match=sentence):
        dat.Trainer(model, (IMAGES, LABELS), **SETTING)


def test_looking_at_the_network_in_training_mode_moves_no_statistics():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    dat.Trainer(model, (IMAGES, LABELS), method="plain", **SETTING)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.filterwarnings("error")
def test_the_temporary_folder_goes_with_the_trainer_without_a_warning():
    trainer = dat.Trainer(network(), (IMAGES, LABELS), method="plain", **SETTING)
    folder = trainer.run_dir.parent
    assert folder.is_dir()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        del trainer
        gc.collect()
    assert not folder.exists() and not [
        str(warning.message) for warning in found if str(folder) in str(warning.message)
    ]
