"""Switches of a step: set while it runs and no longer, and none of them changes what it computes."""

import functools

import pytest
import torch
from torch import nn

from dat import models
from dat.methods.dat import DAT
from dat.methods.dat.generator import AmplitudeGenerator
from dat.methods.dat.method import DATMethod
from dat.methods.task import Task
from dat_engine import private_torch
from dat_engine.attack.attack_model import AttackModel
from dat_engine.attack.fused_epilogues import FusedConvolution
from dat_engine.attack.padded_stem import PaddedConvolution
from dat_engine.errors import UserError
from dat_engine.model.bf16_forward import BF16Forward
from dat_engine.model.precision import Precision
from dat_engine.run.determinism import deterministic
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.switches import Switches
from dat_engine.step.training_step import TrainingStep
from tests.engine.step.prototypes import CLASSES, MART, SHAPE, batch, classifier

OPTIMIZER = SGDSettings(learning_rate=0.05)


class Looking(MART):
    def draw_noise(self, batch, generator):
        self.seen = torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32
        return super().draw_noise(batch, generator)


def flags() -> tuple[bool, bool]:
    return torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32


def dat_step(**options) -> TrainingStep:
    task = Task(num_classes=CLASSES, image_shape=SHAPE, epsilon=0.1)
    torch.manual_seed(1)
    method = DATMethod(DAT(steps=1, generator_optimizer=OPTIMIZER), task)
    return TrainingStep(classifier("base", "mix"), method, optimizer=OPTIMIZER, seed=2, **options)


@pytest.mark.parametrize(
    ("switches", "seen"),
    [(None, (True, False)), (Switches(cudnn_benchmark=False), (False, False)), (Switches(tf32=True), (True, True))],
)
def test_the_process_is_set_for_the_steps_duration(switches, seen):
    before = flags()
    step = TrainingStep(classifier(), Looking(), optimizer=OPTIMIZER, switches=switches)
    step(batch(0))
    assert step.method.seen == seen and flags() == before


def test_nothing_is_chosen_by_timing_where_the_bits_must_repeat():
    step = TrainingStep(classifier(), Looking(), optimizer=OPTIMIZER)
    with deterministic():
        step(batch(0))
    assert step.method.seen == (False, False)


def test_a_players_stand_in_is_compiled_and_its_network_trained(monkeypatch):
    torch._dynamo.reset()
    compiled = []

    def recording(function, **options):
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", recording)
    losses = []
    for switches in (Switches(), Switches(compile_players=True)):
        step = dat_step(compiled=True, switches=switches)
        assert (step.method.generator in compiled) == switches.compile_players
        losses.append([float(step(batch(index))["loss"]) for index in range(2)])
    assert losses[0] == losses[1]


def test_the_option_of_torchs_compiler_reaches_every_compilation(monkeypatch):
    options, expected = [], private_torch.dependent_launch_options() or None
    compile_ = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(
        torch, "compile", lambda *given, **named: options.append(named.pop("options")) or compile_(*given)
    )
    TrainingStep(classifier(), MART(), optimizer=OPTIMIZER, compiled=True, switches=Switches(dependent_launch=True))
    assert len(options) == 3 and all(given == expected for given in options)


def amplitude_and_gradients(generator, device) -> list[torch.Tensor]:
    """Of a batch of latent codes and logits, and of every weight."""
    numbers = torch.Generator().manual_seed(0)
    latent, logits, weights = (
        torch.randn(shape, generator=numbers).to(device) for shape in ((64, 100), (64, 10), (64, 3, 32, 32))
    )
    amplitude = generator(latent, logits)
    return [amplitude.detach(), *torch.autograd.grad((amplitude * weights).sum(), list(generator.parameters()))]


def test_a_generator_in_bf16_gives_float32_amplitudes_and_gradients_near_float32s(device):
    torch.manual_seed(0)
    generator = AmplitudeGenerator(10).to(device)
    whole, low = (amplitude_and_gradients(network, device) for network in (generator, BF16Forward(generator)))
    assert all(tensor.dtype == torch.float32 for tensor in low)
    errors = [float((own - other).norm() / other.norm()) for own, other in zip(low, whole, strict=True)]
    assert 1e-4 < errors[0] < 0.01  # it is bf16, and no worse
    before_batchnorm = {"model.2.bias", "model.5.bias", "model.8.bias"}  # without a gradient but for rounding
    for error, (name, _) in zip(errors[1:], generator.named_parameters(), strict=True):
        assert error < 0.2 or name in before_batchnorm, name


def test_a_step_with_a_bf16_generator_trains_it_in_float32():
    losses, moved = [], []
    for switches in (Switches(), Switches(bf16_players=True)):
        step = dat_step(switches=switches)
        generator = step.method.generator
        before = [parameter.detach().clone() for parameter in generator.parameters()]
        assert isinstance(step.method.generate, BF16Forward) == switches.bf16_players
        losses.append(float(step(batch(0))["loss"]))
        assert all(parameter.dtype == torch.float32 for parameter in generator.parameters())
        after = [parameter.detach() for parameter in generator.parameters()]
        moved.append(torch.cat([(own - old).flatten() for own, old in zip(after, before, strict=True)]))
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.01)
    assert 0 < float((moved[1] - moved[0]).norm() / moved[0].norm()) < 0.5


def test_a_float64_check_keeps_its_float64_generator():
    step = dat_step(precision=Precision(name="fp64"), switches=Switches(bf16_players=True))
    generator, given = step.method.generator.double(), [torch.rand(4, size).double() for size in (100, CLASSES)]
    assert torch.equal(step.method.generate(*given), generator(*given))


def test_a_bf16_generator_is_compiled_as_one_graph(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager", fullgraph=True))
    step = dat_step(compiled=True, switches=Switches(compile_players=True, bf16_players=True))
    given = torch.rand(4, 100), torch.rand(4, CLASSES)
    assert step.method.generate is not step.method.generator
    torch.testing.assert_close(
        step.method.generate(*given), BF16Forward(step.method.generator)(*given), rtol=0.01, atol=0
    )


def test_a_player_that_gives_no_tensor_is_refused_in_bf16():
    class Pair(nn.Module):
        def forward(self, values):
            return values, values

    with pytest.raises(
        UserError, match=r"Pair gives a tuple, and a network in bf16 \(engine.bf16_players\) must give one"
    ):
        BF16Forward(Pair())(torch.zeros(1))


@pytest.mark.parametrize("branching", ["folded", "grouped"])
def test_a_padded_stem_has_the_models_logits_and_gradients_and_follows_its_weights(branching, device):
    model = classifier("base", "mix").double().to(device)
    layout = ("base", "mix")
    padded = AttackModel(model, (layout, ("base",)), dtype=torch.float64, branching=branching, padded_stem=True)
    plain = AttackModel(model, (layout, ("base",)), dtype=torch.float64, branching=branching)
    assert any(isinstance(part, PaddedConvolution) for module in padded._modules.values() for part in module.modules())
    for _ in range(2):
        results = []
        for attack_model in (padded, plain):
            images = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
            logits = attack_model.logits(images.requires_grad_(), layout)
            results.append((logits, *torch.autograd.grad(logits.square().sum(), images)))
        for own, other in zip(*results, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-11)
        with torch.no_grad():
            model[0].weight.add_(0.1)
        padded.refresh()
        plain.refresh()


def attacked(view: AttackModel, layout: tuple[str, ...], device) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and their gradient in the images, in float64."""
    images = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)
    logits = view.logits(images.requires_grad_(), layout)
    return logits.detach().double(), torch.autograd.grad(logits.square().sum(), images)[0].double()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_fused_epilogues_lose_no_more_than_one_operation_after_the_other(dtype, device):
    """Against float64, and still after the weights have moved; on a CPU it is the same to the last bit."""
    torch.manual_seed(0)
    model = models.build("resnet8", num_classes=CLASSES, width=16, branches=("base", "mix")).to(device)
    layout = ("base", "mix")
    for _ in range(2):
        with torch.no_grad():
            model(torch.rand(16, 3, 16, 16, device=device))
        exact = attacked(AttackModel(model, (layout,), dtype=torch.float64), layout, device)
        errors = []
        for fused in (True, False):
            view = AttackModel(model, (layout,), dtype=dtype, memory_format=torch.channels_last, fused_epilogues=fused)
            assert view.fused_convolutions == (14 if fused else 0)
            results = attacked(view, layout, device)
            errors.append([float((own - true).norm() / true.norm()) for own, true in zip(results, exact, strict=True)])
        for own, other in zip(*errors, strict=True):  # a lost bias, residual or mask costs more than a tenth
            assert own <= 2 * other + 1e-3 if device.type == "cuda" else own == other


def test_a_step_with_fused_epilogues_is_the_step_without_eagerly_and_compiled(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager", fullgraph=True))
    losses = []
    for switches, compiled in (
        (None, False),
        (Switches(fused_epilogues=True), False),
        (Switches(fused_epilogues=True), True),
    ):
        step = TrainingStep(classifier(), MART(), optimizer=OPTIMIZER, compiled=compiled, switches=switches)
        assert step.attack_model is not None
        fused = [part for module in step.attack_model._modules.values() for part in module.modules()]
        assert sum(isinstance(part, FusedConvolution) for part in fused) == (0 if switches is None else 1)
        losses.append([float(step(batch(index))["loss"]) for index in range(2)])
    assert losses[1] == losses[0]
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)
