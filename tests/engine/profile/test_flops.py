"""Counted operations: a layer by hand, compiled code, and the price list of METHOD section 11."""

import pytest
import torch

from dat import models
from dat.methods import METHODS
from dat.methods.dat import DAT
from dat.methods.task import Task
from dat_engine.attack.attack_model import CHECKS
from dat_engine.data import Batch
from dat_engine.model.precision import Precision
from dat_engine.profile import flops
from dat_engine.profile.flops import count_flops, matrix_product_rate
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.training_step import TrainingStep

TASK = Task(num_classes=10, image_shape=(3, 32, 32), epsilon=8 / 255)


def test_a_layer_by_hand():
    layer = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
    images = torch.rand(2, 3, 16, 16)
    forward = 2 * 2 * 16 * 16 * 8 * 3 * 9
    assert count_flops(lambda: layer(images)) == forward
    assert count_flops(lambda: torch.autograd.grad(layer(images).sum(), layer.weight)) == 2 * forward
    assert count_flops(lambda: torch.rand(5, 7) @ torch.rand(7, 3)) == 2 * 5 * 7 * 3


def test_compiled_functions_are_counted_too():
    layer = torch.nn.Linear(6, 4)
    compiled = torch.compile(layer, backend="aot_eager")
    inputs = torch.rand(3, 6)
    compiled(inputs)
    assert count_flops(lambda: compiled(inputs)) == 2 * 3 * 6 * 4


@pytest.mark.parametrize(
    ("method", "settings", "forwards", "stem_backwards_saved"),
    [
        ("dat", DAT(), 35, 0),
        # two forwards less: f(x) gives the first gradients too, of the image and of its mixed twin
        ("dat", DAT(first_step="clean"), 33, 0),
        # the groups that theta's pass takes want no gradient
        ("dat", DAT(generator_update="alternating"), 41, 4),
        ("pgd-at", METHODS["pgd-at"].settings, 23, 1),
        ("dat", DAT(mixed_image=False), 17, 2),
        ("dat", DAT(adversarial="single", mix_source="augmented"), 23, 0),
        # no logits condition a generator, and no group wants a gradient
        ("dat", DAT(amplitude_from="other-image"), 34, 4),
        # f(x) is not asked for
        ("dat", DAT(attack_loss="cross-entropy"), 33, 0),
        ("dat", DAT(training_loss="pgd-at", attack_loss="cross-entropy", omega=0.0), 27, 0),
        ("mart", METHODS["mart"].settings, 26, 2),
        ("st", METHODS["st"].settings, 50, 3),
        ("sar", METHODS["sar"].settings, 26, 2),
        ("dajat", METHODS["dajat"].settings, 33, 6),
    ],
    ids=[
        *(
            "dat joint",
            "dat clean first step",
            "dat alternating",
            "pgd-at",
            "dat without the mixed image",
            "dat single",
        ),
        *("dat other image", "dat attack by cross entropy", "pgd-at with the generator", "mart", "st", "sar", "dajat"),
    ],
)
def test_steps_cost_what_the_method_says(method, settings, forwards, stem_backwards_saved):
    entry = METHODS[method]
    created = entry.create(settings, TASK)
    model = models.build("resnet18", num_classes=10, width=16, branches=entry.branches(settings))
    update = getattr(settings, "generator_update", "joint")
    step = TrainingStep(model, created, optimizer=SGDSettings(), precision=Precision(), update=update)
    images = torch.rand(2, 3, 32, 32)
    views = torch.rand(created.extra_views, *images.shape) if created.extra_views else None
    targets, indices = torch.tensor([0, 1]), torch.arange(2)
    batch = Batch(images=images, originals=images, targets=targets, indices=indices, extra_views=views)
    forward = count_flops(lambda: model(images))
    stem = count_flops(lambda: model.conv1(images))
    generator = 0
    if step.other_seats:
        linear = [layer for layer in step.other_seats[0].player.network.model if isinstance(layer, torch.nn.Linear)]
        weights = sum(layer.weight.numel() for layer in linear)
        # forward, backward to the weights, and to the inputs of all layers but the first (the joint pass asks for none)
        generator = 2 * len(images) * (3 * weights - linear[0].weight.numel())
    for _ in range(CHECKS):
        step(batch)  # the first steps also compare the view with the model
    cost = count_flops(lambda: step(batch)) - generator + stem_backwards_saved * stem
    assert cost / forward == pytest.approx(forwards, abs=0.05)


def test_the_matrix_product_rate_is_operations_over_seconds(monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr(flops, "now", lambda device: 0.5 * next(ticks))
    assert matrix_product_rate(torch.device("cpu"), torch.float32) == 2 * flops.CPU_SIZE**3 / 0.5
