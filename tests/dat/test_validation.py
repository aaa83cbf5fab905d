"""Validation while training: the attack in the step's precision, one copy for a whole run, the model's own predictions."""

import math

import pytest
import torch

from dat.evaluation import evaluate
from dat.training.fitting import validation_by
from dat_engine.attack.attack_model import AttackModel
from dat_engine.data import ImageArrays
from dat_engine.distributed import ONE_PROCESS
from dat_engine.model.precision import Precision
from dat_engine.run.stop import Stop
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.training_step import TrainingStep
from tests.engine.step.prototypes import CLASSES, EPSILON, MART, batch, classifier


def images(count: int = 20) -> ImageArrays:
    made = batch(3, count)
    names = tuple(f"class {index}" for index in range(CLASSES))
    return ImageArrays(images=(255 * made.images).to(torch.uint8), targets=made.targets, class_names=names)


def validation(step: TrainingStep, data: ImageArrays, batch_size: int = 8):
    return validation_by(
        data, step, epsilon=EPSILON, batch_size=batch_size, seed=0, processes=ONE_PROCESS, stop=Stop(time_limit=None)
    )


def training_step(**options) -> TrainingStep:
    return TrainingStep(classifier(), MART(), optimizer=SGDSettings(learning_rate=0.05), **options)


@pytest.fixture
def made(monkeypatch):
    """Every attack model that is made, with its settings."""
    found = []
    create = AttackModel.__init__

    def recording(self, *given, **options):
        found.append(self)
        create(self, *given, **options)

    monkeypatch.setattr(AttackModel, "__init__", recording)
    return found


def test_one_copy_in_the_steps_precision_follows_the_model_through_the_run(made):
    step, data = training_step(precision=Precision(name="bf16")), images()
    validate = validation(step, data)
    made.clear()
    for index in range(3):
        found = validate(step.model)
        assert len(made) == 1 and made[0].dtype == torch.bfloat16
        twin = classifier()
        twin.load_state_dict(step.model.state_dict())
        exact = evaluate(twin, data, ("natural", "pgd20"), epsilon=EPSILON, batch_size=8)
        made[:] = made[:1]
        assert found["natural"] == exact["natural"]
        assert found["pgd20"] == pytest.approx(exact["pgd20"], abs=5.1)  # one image of twenty
        step(batch(index))
    other = classifier(seed=1)
    validate(other)
    assert len(made) == 2 and made[1]._model is other


def test_what_the_attack_returns_is_counted_on_the_model_itself(monkeypatch):
    step, counted = training_step(precision=Precision(name="bf16")), []
    predicted = evaluate.__globals__["_predicted"]
    monkeypatch.setitem(
        evaluate.__globals__, "_predicted", lambda model, *given: counted.append(model) or predicted(model, *given)
    )
    validation(step, images())(step.model)
    assert len(counted) == 6 and all(model is step.model for model in counted)


def test_a_copy_that_differs_gives_way_to_one_in_the_models_precision(made, monkeypatch):
    step = training_step(precision=Precision(name="bf16"))
    validate = validation(step, images())
    made.clear()
    verify = AttackModel.verify
    monkeypatch.setattr(
        AttackModel, "verify", lambda self, sample: "far off" if self.dtype.itemsize == 2 else verify(self, sample)
    )
    assert math.isfinite(validate(step.model)["pgd20"])
    assert [each.dtype for each in made] == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize(("count", "at_most", "sizes"), [(20, 8, [7, 7, 6]), (16, 8, [8, 8]), (5, 8, [5])])
def test_a_compiled_copy_meets_as_few_shapes_as_can_be(count, at_most, sizes, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    step = training_step(compiled=True)
    seen = []
    predicted = evaluate.__globals__["_predicted"]

    def recording(model, given, layout):
        seen.append(len(given))
        return predicted(model, given, layout)

    monkeypatch.setitem(evaluate.__globals__, "_predicted", recording)
    validation(step, images(count), at_most)(step.model)
    assert seen[::2] == sizes
