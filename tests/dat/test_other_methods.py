"""MART, ST, SAR and DAJAT on the engine: compiled once and captured as eager, going on from a state, soft labels, refusals."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dat.methods import DAJAT, MART, METHODS, SAR, ST
from dat.methods.sar.method import spectral_distance
from dat.methods.st.method import squeeze_divergence
from dat.methods.task import Task
from dat_engine.errors import UserError
from dat_engine.step.graph import GraphedStep
from dat_engine.step.method import JointPass
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.progress import TrainingProgress
from dat_engine.step.training_step import TrainingStep
from tests.engine.step.prototypes import CLASSES, EPSILON, SHAPE, batch, classifier

TASK = Task(num_classes=CLASSES, image_shape=SHAPE, epsilon=EPSILON)
SETTINGS = {
    "mart": MART(steps=2),
    "st": ST(steps=2),
    "sar": SAR(steps=2, start=2),
    "dajat": DAJAT(ramp_epochs=4),
}
EVERY = pytest.mark.parametrize("method", SETTINGS)
VIEWS = DAJAT().views


def training_step(method: str, **options) -> TrainingStep:
    entry, settings = METHODS[method], SETTINGS[method]
    model = classifier(*entry.branches(settings))
    optimizer = SGDSettings(learning_rate=0.05)
    return TrainingStep(model, entry.create(settings, TASK), optimizer=optimizer, seed=4, **options)


def run(step: TrainingStep, execute, epochs: range) -> list[dict[str, float]]:
    """One step in each of these epochs of four."""
    rows = []
    for epoch in epochs:
        step.progress.set(epoch=epoch, fraction=epoch / 4)
        rows.append({name: float(value) for name, value in execute(batch(epoch, extra_views=VIEWS)).items()})
    return rows


@EVERY
def test_the_losses_are_one_graph_through_all_schedules(method):
    created = METHODS[method].create(SETTINGS[method], TASK)
    generator = torch.Generator().manual_seed(1)
    logits = tuple(torch.randn(8, CLASSES, generator=generator) for _ in created.layout)

    def losses(logits: tuple[Tensor, ...], targets: Tensor, epoch: Tensor, radius: Tensor) -> dict[str, Tensor]:
        progress = TrainingProgress(epoch=epoch, fraction=epoch / 4)
        extras = {"epsilon": radius}
        return created.losses(JointPass(logits=logits, examples=(), targets=targets, progress=progress, extras=extras))

    # what Inductor is given, run operation by operation: its own rounding is another test's
    compiled = torch.compile(losses, backend="aot_eager", fullgraph=True)
    targets, radius = torch.arange(8) % CLASSES, torch.tensor(0.1)
    compiled(logits, targets, torch.tensor(0.0), radius)
    totals = set()
    with torch.compiler.set_stance("fail_on_recompile"):
        for epoch in (1.5, 2.0, 3.0):  # the start epoch among them
            found, expected = (each(logits, targets, torch.tensor(epoch), radius) for each in (compiled, losses))
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, msg=name)
            totals.add(float(found["loss"]))
    assert len(totals) == (2 if method == "sar" else 1)


@EVERY
def test_captured_it_follows_eager_through_its_schedules(method):
    eager, captured = training_step(method), training_step(method)
    graphed = GraphedStep(captured)
    assert run(captured, graphed, range(4)) == run(eager, eager, range(4)) and graphed.captured


@EVERY
def test_a_step_goes_on_from_its_state(method):
    whole, first, second = (training_step(method) for _ in range(3))
    expected = run(whole, whole, range(4))
    assert run(first, first, range(2)) == expected[:2]
    second.load_state_dict(first.state_dict())
    assert run(second, second, range(2, 4)) == expected[2:]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name


@pytest.mark.parametrize("method", ["st", "sar", "dajat"])
def test_soft_labels_that_are_onehot_are_the_labels(method):
    hard, soft = training_step(method), training_step(method)
    given = batch(0, extra_views=VIEWS)
    onehot = functional.one_hot(given.targets, CLASSES).float()
    expected, found = hard(given), soft(type(given)(**{**fields_of(given), "targets": onehot}))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=name)


def fields_of(given) -> dict:
    return {name: getattr(given, name) for name in ("images", "originals", "targets", "indices", "extra_views")}


def test_mart_needs_the_class_itself():
    given = batch(0)
    soft = torch.full((len(given.targets), CLASSES), 1 / CLASSES)
    with pytest.raises(UserError, match="this method needs one class number per image"):
        training_step("mart")(type(given)(**{**fields_of(given), "targets": soft}))


def test_the_spectrum_is_that_of_the_discrete_fourier_transform():
    one, other = torch.randn(2, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for spectrum, transform in (("sample", torch.fft.fft), ("batch", torch.fft.fft2)):
        expected = torch.view_as_real(transform(one) - transform(other)).abs().mean()
        torch.testing.assert_close(spectral_distance(one, other, spectrum), expected)
        assert spectral_distance(one, one, spectrum) == 0


def test_the_squeezed_two_are_the_farthest_of_any_order():
    near, middle, far = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0]])
    expected = squeeze_divergence((near, far), targets)
    for order in ((near, middle, far), (far, near, middle), (middle, far, near)):
        torch.testing.assert_close(squeeze_divergence(order, targets), expected)
    assert squeeze_divergence((near, middle), targets) < expected


@pytest.mark.parametrize(
    ("settings", "values", "message"),
    [
        (MART, {"beta": -1.0}, "beta must be finite and not negative; got -1"),
        (ST, {"beta": float("inf")}, "beta must be finite and not negative; got inf"),
        (SAR, {"weight": -0.1}, "weight must be finite and not negative; got -0.1"),
        (SAR, {"start": -1.0}, "start is in epochs, counted from 0; got -1"),
        (DAJAT, {"js_weight": -1.0}, "beta and js_weight must be finite and not negative; got 11 and -1"),
        (DAJAT, {"views": 0}, "views must be at least 1, beside the image's own; got 0"),
        (DAJAT, {"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\); got 1"),
        (DAJAT, {"ramp_epochs": 0.0}, "ramp_epochs must be positive and finite; got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, values, message):
    with pytest.raises(UserError, match=message):
        settings(**values)
