"""NVIDIA apex's FusedSGD, played by a stand-in with its interface: detection, messages, mapping, skipping, capture."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dat.cli.doctor import examine
from dat.methods.dat import DAT
from dat.methods.dat.method import DATMethod
from dat_engine.step import apex_sgd
from dat_engine.step.apex_sgd import why_unusable
from dat_engine.step.graph import GraphedStep
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.optimizers import load_optimizer_state, set_learning_rate, sgd, step_unless
from dat_engine.step.training_step import TrainingStep
from tests.engine.step.test_training_step import TASK, batch, dat_step, everything

SETTINGS = SGDSettings(learning_rate=0.1, momentum=0.8, weight_decay=0.01, implementation="apex")

# The interface of apex.optimizers.FusedSGD: float rates, a flag that its kernel reads, float32 only, no ascent, and a
# first step that overwrites momentum; written from its documentation, on the CPU.
FUSED_SGD = """
import torch


class FusedSGD(torch.optim.Optimizer):
    def __init__(self, params, lr, momentum=0, dampening=0, weight_decay=0, nesterov=False):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov})
        self._dummy_overflow_buf = torch.zeros(1, dtype=torch.int32)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            assert isinstance(group["lr"], float)
            for parameter in group["params"]:
                state = self.state[parameter]
                first = "momentum_buffer" not in state
                buffer = state.setdefault("momentum_buffer", torch.zeros_like(parameter))
                if self._dummy_overflow_buf.item() or parameter.dtype != torch.float32:
                    continue
                gradient = parameter.grad + group["weight_decay"] * parameter
                buffer.copy_(gradient if first else group["momentum"] * buffer + gradient)
                parameter -= group["lr"] * (gradient + group["momentum"] * buffer if group["nesterov"] else buffer)
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch):
    """Installs packages called apex into a folder of their own and forgets them afterwards."""

    def install(*, nvidia: bool, kernels: bool = True) -> None:
        (tmp_path / "apex").mkdir()
        # detection must not run it: PyPI's package would import a web framework
        (tmp_path / "apex" / "__init__.py").write_text("" if nvidia else "raise RuntimeError('imported')")
        if nvidia:
            (tmp_path / "apex" / "optimizers").mkdir()
            (tmp_path / "apex" / "optimizers" / "__init__.py").write_text(FUSED_SGD)
        if kernels:
            (tmp_path / "amp_C.py").write_text("")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(apex_sgd, "_DEVICES", ("cpu",))  # the stand-in has no kernels that need a GPU

    yield install
    for name in [name for name in sys.modules if name.split(".")[0] in ("apex", "amp_C")]:
        del sys.modules[name]


def apex_step() -> TrainingStep:
    torch.manual_seed(0)
    model = dat_step().model
    return TrainingStep(model, DATMethod(DAT(generator_optimizer=SETTINGS), TASK), optimizer=SETTINGS, seed=7)


@pytest.mark.skipif(why_unusable() is None, reason="this machine has NVIDIA's apex, so its absence cannot be shown")
def test_without_apex_the_message_says_where_it_comes_from():
    with pytest.raises(ValueError, match=r"NVIDIA apex is not installed .*not pip install apex.*implementation torch"):
        sgd([nn.Parameter(torch.ones(2))], SETTINGS)


def test_the_package_that_pypi_calls_apex_is_recognised_without_being_imported(installed):
    installed(nvidia=False, kernels=False)
    with pytest.raises(ValueError, match="is not NVIDIA's but the one that PyPI has under that name"):
        sgd([nn.Parameter(torch.ones(2))], SETTINGS)
    assert "apex" not in sys.modules
    (finding,) = [finding for finding in examine() if finding.subject == "apex"]
    assert not finding.good and not finding.required
    assert "not NVIDIA's" in finding.text


def test_an_apex_without_its_kernels_is_recognised(installed):
    installed(nvidia=True, kernels=False)
    with pytest.raises(ValueError, match="without its CUDA kernels"):
        sgd([nn.Parameter(torch.ones(2))], SETTINGS)


def test_what_it_cannot_update_is_refused(installed, monkeypatch):
    installed(nvidia=True)
    (finding,) = [finding for finding in examine() if finding.subject == "apex"]
    assert finding.good
    with pytest.raises(ValueError, match=r"leave parameters in torch\.float64 unchanged"):
        sgd([nn.Parameter(torch.ones(2, dtype=torch.float64))], SETTINGS)
    monkeypatch.setattr(apex_sgd, "_DEVICES", ("cuda",))
    with pytest.raises(ValueError, match="works on a GPU and the parameters are on cpu"):
        sgd([nn.Parameter(torch.ones(2))], SETTINGS)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_its_steps_are_those_of_torch(installed, nesterov, maximize):
    installed(nvidia=True)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(6, 4, generator=generator)
    weights = [nn.Parameter(start.clone()) for _ in range(2)]
    values = {"learning_rate": 0.1, "momentum": 0.8, "weight_decay": 0.01, "nesterov": nesterov}
    optimizers = [
        sgd([weight], SGDSettings(**values, implementation=name), maximize=maximize)
        for weight, name in zip(weights, ("apex", "torch"), strict=True)
    ]
    # the second step has a non-finite gradient; a rate changes; the first step starts momentum
    for bad, rate in ((0.0, 0.1), (1.0, 0.1), (0.0, 0.1), (0.0, 0.05)):
        gradient = torch.randn(6, 4, generator=generator)
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = gradient.clone()
            set_learning_rate(optimizer, rate)
            step_unless(optimizer, torch.tensor(bad))
        torch.testing.assert_close(weights[0], weights[1])
    momenta = [o.state[w]["momentum_buffer"] for w, o in zip(weights, optimizers, strict=True)]
    torch.testing.assert_close(*momenta)


def test_a_bad_first_step_leaves_clean_momentum(installed):
    installed(nvidia=True)
    weight = nn.Parameter(torch.ones(3))
    optimizer = sgd([weight], SETTINGS)
    weight.grad = torch.full((3,), torch.nan)
    step_unless(optimizer, torch.tensor(1.0))
    assert not optimizer.state[weight]["momentum_buffer"].any()
    assert torch.equal(weight, torch.ones(3))


def test_its_state_is_saved_and_loaded(installed):
    installed(nvidia=True)
    weight, twin = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer, other = sgd([weight], SETTINGS), sgd([twin], SETTINGS)
    weight.grad = torch.ones(3)
    step_unless(optimizer, torch.tensor(0.0))
    set_learning_rate(optimizer, 0.03)
    load_optimizer_state(other, optimizer.state_dict())
    assert other.param_groups[0]["lr"] == 0.03
    assert torch.equal(other.state[twin]["momentum_buffer"], optimizer.state[weight]["momentum_buffer"])


def test_a_whole_step_skips_what_is_not_finite(installed):
    installed(nvidia=True)
    step = apex_step()
    step(batch())
    before = everything(step)
    poisoned = batch(1)
    poisoned.images[0, 0, 0, 0] = torch.nan
    assert step(poisoned)["skipped"] == 1
    assert all(torch.equal(value, before[name]) for name, value in everything(step).items())


def test_it_is_never_captured_and_the_schedule_is_followed(installed):
    installed(nvidia=True)
    step = apex_step()
    graphed = GraphedStep(step, capture=lambda function, step: pytest.fail("captured"))
    with pytest.warns(UserWarning, match="takes its learning rate from the host"):
        graphed(batch())
    assert not graphed.captured
    weights = everything(step)
    for optimizer in (step.optimizer, step.other_seats[0].optimizer):
        set_learning_rate(optimizer, 0.0)
    graphed(batch(1))
    model = step.model.state_dict()
    assert all(torch.equal(weights[name], model[name]) for name, _ in step.model.named_parameters())
