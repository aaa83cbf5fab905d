"""`dat.evaluate` on any module and any labelled images: what it takes, what it refuses, and that it cannot be fooled."""

import csv
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import dat
from dat.evaluation import check_writable
from dat_engine.attack.attack_model import AttackModel
from dat_engine.distributed import Processes
from dat_engine.errors import RunFailedError
from dat_engine.model.branches import convert_batchnorm
from dat_engine.run.stop import Stop, Stopped


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)
    )


MODEL = network()
IMAGES = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(20) % 4
ATTACKS = ["natural", "pgd20"]


def evaluated(model=MODEL, data=(IMAGES, LABELS), attacks=ATTACKS, **options):
    return dat.evaluate(model, data, attacks=attacks, **{"epsilon": 8 / 255, "batch_size": 8, **options})


class NormAndReLU(nn.BatchNorm2d):
    def forward(self, features):
        return functional.relu(super().forward(features))


def plain_pgd(model: nn.Module, images, labels, epsilon: float, steps: int) -> torch.Tensor:
    """Madry's PGD with autograd through the model, from the image itself; whether each image still stands."""
    adversarial = images.clone()
    for _ in range(steps):
        adversarial.requires_grad_()
        (gradient,) = torch.autograd.grad(functional.cross_entropy(model(adversarial), labels), adversarial)
        adversarial = adversarial.detach() + epsilon / 4 * gradient.sign()
        adversarial = adversarial.clamp(images - epsilon, images + epsilon).clamp(0, 1)
    return model(adversarial).argmax(dim=1) == labels


def test_a_batchnorm_with_an_activation_gives_no_false_robustness():
    torch.manual_seed(0)
    base = nn.Sequential(
        nn.Conv2d(1, 16, 3, bias=False), NormAndReLU(16), nn.Conv2d(16, 16, 3, bias=False), NormAndReLU(16),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 2),
    )  # fmt: skip
    model = convert_batchnorm(base)
    labels = torch.arange(64) % 2
    images = (0.5 + 0.3 * torch.randn(64, 1, 8, 8)).clamp(0, 1)
    images[labels == 1, :, ::2] = (images[labels == 1, :, ::2] + 0.2).clamp(0, 1)  # stripes
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    found = evaluated(model, (images, labels), ["natural", "pgd20", "cw"], epsilon=0.15)
    expected = 100 * plain_pgd(model.eval(), images, labels, 0.15, 20).float().mean()
    assert found["natural"] > 90 and expected < 10
    assert found["pgd20"] <= expected + 3 and found["cw"] <= expected + 3


@pytest.mark.parametrize(
    "data",
    [
        (IMAGES.numpy(), LABELS.numpy()),
        (IMAGES.double(), LABELS.int()),
        [IMAGES.numpy()[::-1][::-1], LABELS.tolist()],
        TensorDataset(IMAGES, LABELS),
        DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8),
    ],
    ids=["arrays", "other dtypes", "strided and a list", "data set", "loader"],
)
def test_images_in_whatever_they_are_held_give_the_same_result(data):
    found, expected = evaluated(data=data), evaluated()
    assert dict(found) == dict(expected) and found.images == 20
    for name in ATTACKS:
        assert torch.equal(found.predictions.predicted[name], expected.predictions.predicted[name])


def test_the_result_reads_like_a_mapping_of_percentages():
    found = evaluated()
    assert list(found) == ATTACKS and len(found) == 2
    share = found["pgd20"] / 100
    assert found.standard_error("pgd20") == pytest.approx(100 * (share * (1 - share) / 20) ** 0.5)
    assert repr(found).startswith(f"Evaluation(natural {found['natural']:.1f} ± ")
    assert repr(found).endswith("20 images, epsilon 0.03137)")
    with torch.no_grad():
        natural = MODEL.eval()(IMAGES).argmax(dim=1)
    assert torch.equal(found.predictions.predicted["natural"], natural)
    assert found["natural"] == 100 * float((natural == LABELS).float().mean())


def test_predictions_are_written_whole(tmp_path):
    found = evaluated()
    path = tmp_path / "predictions.csv"
    found.predictions.save(path)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["index", "target", "natural", "natural_correct", "pgd20", "pgd20_correct"]
    assert [int(row["index"]) for row in rows] == list(range(20))
    assert [int(row["target"]) for row in rows] == LABELS.tolist()
    assert sum(int(row["pgd20_correct"]) for row in rows) == round(found["pgd20"] / 100 * 20)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


def test_a_path_that_cannot_be_written_is_named_before_anything_is_done(tmp_path):
    for path, words in (
        (tmp_path / "a.npz", "ends in .csv"),
        (tmp_path / "nowhere" / "a.csv", "does not exist"),
        (tmp_path / "folder.csv", "is a folder"),
    ):
        (tmp_path / "folder.csv").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=words):
            check_writable(path)
    check_writable(tmp_path / "good.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.csv"]


class Tuple(nn.Module):
    def forward(self, images):
        return MODEL(images), images


class Noisy(nn.Module):
    def forward(self, images):
        return MODEL(functional.dropout(images, 0.5, training=True))


class Rounding(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = network()

    def forward(self, images):
        with torch.no_grad():
            return self.model(images)


def without_statistics() -> nn.Module:
    model = network()
    model[1] = nn.BatchNorm2d(8, track_running_stats=False)
    return model


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        (MODEL, ((IMAGES * 255).byte(), LABELS), "images are uint8 .* divide them by 255"),
        (MODEL, (IMAGES * 2 - 1, LABELS), r"images range from -0\.99.* give images in \[0, 1\]"),
        (MODEL, (IMAGES / 0, LABELS), "images range from"),
        (MODEL, (IMAGES[0], LABELS[:3]), r"shape \[3, 8, 8\]; give \[N, C, H, W\]"),
        (MODEL, (IMAGES.permute(0, 2, 3, 1), LABELS), r"cannot take images of shape \[8, 8, 8, 3\]"),
        (MODEL, (IMAGES, LABELS[:5]), "20 images and 5 labels"),
        (MODEL, (IMAGES, LABELS.float()), "one class number"),
        (MODEL, (IMAGES, LABELS + 1), r"labels range from 1 to 4, .* must lie in 0\.\.3"),
        (MODEL, (IMAGES[:0], LABELS[:0]), "no image"),
        (MODEL, "cifar10", "data is a str"),
        (network().bfloat16(), (IMAGES, LABELS), "bfloat16 weights.*model.float"),
        (Tuple(), (IMAGES, LABELS), "returns a tuple for 8 images"),
        (Noisy(), (IMAGES, LABELS), "other logits for the same images every time"),
        (without_statistics(), (IMAGES, LABELS), "depend on the other images of the batch"),
        (Rounding(), (IMAGES, LABELS), "no gradient in the images"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_sentence(model, data, words):
    with pytest.raises(ValueError, match=words) as raised:
        evaluated(model, data)
    assert "\n" not in str(raised.value)


def test_a_view_that_cannot_be_made_right_is_refused(monkeypatch):
    honest = AttackModel.logits
    monkeypatch.setattr(
        AttackModel,
        "logits",
        lambda attack_model, images, layout=("base",): honest(attack_model, images.flip(3), layout),
    )
    with pytest.raises(ValueError, match=r"image gradient differs .* reported too high"):
        evaluated()


def test_a_model_is_left_as_it_was_found_module_by_module():
    model = network().train()
    model[1].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    evaluated(model)
    assert model.training and not model[1].training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


class Shared(Processes):
    """One of two processes; what the other one gathers was recorded before."""

    __slots__ = ()
    rows: ClassVar[list[dict]] = []

    def total(self, values):
        return values  # each looks round alone here

    def gather(self, state):
        self.rows.append(dict(state))
        return self.rows


@pytest.mark.parametrize("data", [(IMAGES[:19], LABELS[:19]), TensorDataset(IMAGES[:19], LABELS[:19])])
def test_processes_share_the_images_out(data):
    Shared.rows.clear()
    evaluated(data=data, processes=Shared(rank=1, world_size=2))
    together = evaluated(data=data, processes=Shared(rank=0, world_size=2))
    assert [len(part["rows"][0]) for part in Shared.rows] == [9, 10]
    alone = evaluated(data=data)
    assert torch.equal(together.predictions.indices, torch.arange(19)) and together["natural"] == alone["natural"]
    assert torch.equal(together.predictions.predicted["natural"], alone.predictions.predicted["natural"])


def test_the_default_branch_has_any_name():
    model = convert_batchnorm(network(), ("clean", "robust"))
    assert dict(evaluated(model)) == dict(evaluated(network()))


def test_logits_that_are_not_finite_are_never_correct():
    model = nn.Sequential(network(), nn.Threshold(-np.inf, 0.0))
    with torch.no_grad():
        model[0][5].bias.fill_(float("nan"))
    assert evaluated(model, attacks=["natural"])["natural"] == 0.0
    with torch.no_grad():
        model[0][5].weight.fill_(float("nan"))  # and so is the gradient
    with pytest.raises(RunFailedError, match="logits of Sequential are not finite, as of a network whose training has"):
        evaluated(model, attacks=["natural", "fgsm"])


def test_an_evaluation_is_left_between_two_batches():
    model, looks = network().train(), []

    class AfterTwo(Stop):
        @property
        def reason(self):
            looks.append(1)
            return "signal" if len(looks) > 2 else None

    done = []
    with pytest.raises(Stopped, match="signal"):
        evaluated(
            model, batch_size=4, attacks=["natural"], on_progress=lambda _, count: done.append(count), stop=AfterTwo()
        )
    assert done == [4, 8] and model.training
    assert dict(evaluated(model, stop=Stop())) == dict(evaluated(model))


class Tuple(nn.Module):
    def forward(self, images):
        return MODEL(images), images


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": nn.Linear}, "the model is the class Linear"),
        ({"model": lambda images: MODEL(images)}, "the model is a function"),
        ({"model": Tuple()}, "returns a tuple"),
        ({"epsilon": "8/255"}, "epsilon is '8/255'; give a number"),
        ({"seed": None}, "seed must be a non-negative 63-bit number; got None"),
        ({"seed": 2**70}, "seed must be a non-negative 63-bit number; got 1180591620717411303424"),
    ],
    ids=["class", "function", "tuple", "epsilon", "no seed", "long seed"],
)
def test_what_is_no_classifier_no_epsilon_or_no_seed_is_the_users_to_mend(change, sentence):
    with pytest.raises(dat.UserError, match=sentence):
        evaluated(**change)


def test_inference_mode_is_refused_by_its_name():
    with torch.inference_mode(), pytest.raises(dat.UserError, match="inference_mode"):
        evaluated()
