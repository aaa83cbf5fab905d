"""MART, ST, SAR and DAJAT: adversarial images, losses and one update equal their literal float64 transcriptions."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dat import models
from dat.methods import DAJAT, MART, SAR, ST
from dat.methods.dajat.method import DAJATMethod
from dat.methods.mart.method import MARTMethod
from dat.methods.sar.method import SARMethod
from dat.methods.st.method import STMethod
from dat_engine.step.training_step import TrainingStep
from tests.dat.oracle_setting import CLASSES, TASK, WIDTH, Setting, model_of, setting, training_step
from tests.dat.test_step_against_oracle import assert_close, assert_states_close
from tests.oracle import other_methods as oracle

EPSILON = TASK.epsilon


def step_of(values: Setting, method: object) -> TrainingStep:
    return training_step(model_of(values, branches=("base",)), method)


def compare(step: TrainingStep, batch, noise: dict[str, Tensor], expected: dict) -> None:
    """The losses and the weights and statistics after one step."""
    metrics = step(batch, noise)
    assert metrics["skipped"] == 0
    for name, value in expected["terms"].items():
        assert_close(metrics[name].double(), value)
    assert_states_close(step.model, expected["model_after"])
    assert_states_close(step.model, expected["running_after"])


def arguments(values: Setting) -> dict:
    return {
        "model_state": values.model_state,
        "images": values.batch.images,
        "targets": values.batch.targets,
        "start_noise": values.start_noise,
    }


def test_mart_step():
    values = setting()
    expected = oracle.mart_step(**arguments(values), steps=4)
    step = step_of(values, MARTMethod(MART(steps=4), TASK))
    noise = {"start": 0.001 * values.start_noise}
    images, adversarial = step.method.examples(step.attack_model, values.batch, noise, step.progress).groups
    assert_close(images, values.batch.images)
    assert_close(adversarial, expected["adversarial"])
    assert (adversarial - images).abs().max() > 0.8 * EPSILON
    compare(step, values.batch, noise, expected)


def test_squeeze_step():
    values = setting()
    expected = oracle.squeeze_step(**arguments(values), other_start_noise=values.mix_start_noise, steps=4)
    step = step_of(values, STMethod(ST(steps=4), TASK))
    noise = {"start": 0.001 * torch.cat([values.start_noise, values.mix_start_noise])}
    collaborative, images, adversarial = step.method.examples(
        step.attack_model, values.batch, noise, step.progress
    ).groups
    assert_close(images, values.batch.images)
    assert_close(adversarial, expected["adversarial"])
    assert_close(collaborative, expected["collaborative"])
    model = model_of(values, branches=("base",)).eval()
    confidences = [
        model(group).softmax(1).gather(1, values.batch.targets[:, None])
        for group in (adversarial, images, collaborative)
    ]
    assert (confidences[0] < confidences[1]).all() and (confidences[1] < confidences[2]).all()
    compare(step, values.batch, noise, expected)


@pytest.mark.parametrize("spectrum", ["sample", "batch"])
def test_sar_step_from_its_start_on(spectrum):
    values = setting()
    start = (
        2 * torch.rand(values.batch.images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) - 1
    )
    given = {**arguments(values), "start_noise": start, "spectrum": spectrum, "steps": 2}
    noise = {"start": EPSILON * start}
    before, after = (oracle.sar_step(**given, weight=weight) for weight in (0.0, 0.5))
    assert abs(before["terms"]["loss"] - after["terms"]["loss"]) > 0.1
    for epoch, expected in ((6.99, before), (7.0, after)):
        step = step_of(values, SARMethod(SAR(start=7, weight=0.5, spectrum=spectrum, steps=2), TASK))
        step.progress.set(epoch=epoch, fraction=0.5)
        adversarial, images = step.method.examples(step.attack_model, values.batch, noise, step.progress).groups
        assert_close(images, values.batch.images)
        assert_close(adversarial, expected["adversarial"])
        compare(step, values.batch, noise, expected)


def test_dajat_step_in_the_third_of_eight_epochs():
    values = setting()
    generator = torch.Generator().manual_seed(5)
    views = [values.batch.images, values.batch.images.flip(3), values.batch.originals]
    start_noise = [torch.randn(views[0].shape, generator=generator, dtype=torch.float64) for _ in views]
    settings = DAJAT(ramp_epochs=8, label_smoothing=0.2)
    radius = float(EPSILON * torch.tensor(3 / 8))  # as float32 holds it
    expected = oracle.dajat_step(
        model_state=values.model_state,
        views=views,
        targets=values.batch.targets,
        start_noise=start_noise,
        epsilon=radius,
        step_size=radius,
        label_smoothing=0.2,
    )
    model = model_of(values)
    augmented = models.build("resnet18", num_classes=CLASSES, width=WIDTH, branches=("base", "aug")).double()
    augmented.load_state_dict({name.replace(".mix.", ".aug."): value for name, value in model.state_dict().items()})
    step = training_step(augmented, DAJATMethod(settings, TASK))
    step.progress.set(epoch=2.5, fraction=2.5 / 8)
    batch = replace(values.batch, extra_views=torch.stack(views[1:]))
    noise = {"start": 0.001 * torch.cat(start_noise)}
    groups = step.method.examples(step.attack_model, batch, noise, step.progress).groups
    for view, adversarial, image, attacked in zip(
        views, expected["adversarial"], groups[0::2], groups[1::2], strict=True
    ):
        assert_close(image, view)
        assert_close(attacked, adversarial)
        assert float((attacked - image).abs().max()) == pytest.approx(radius)
    metrics = step(batch, noise)
    assert float(metrics["epsilon"]) == pytest.approx(EPSILON * 3 / 8)
    for name, value in expected["terms"].items():
        assert_close(metrics[name].double(), value)
    after = {name.replace(".aug.", ".mix."): value for name, value in step.model.state_dict().items()}
    model.load_state_dict(after)
    assert_states_close(model, expected["model_after"])
    assert_states_close(model, expected["running_after"])
