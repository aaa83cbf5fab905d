"""Launches of a compiled step's large parts on a GPU, by the code that Inductor writes for one; see `inductor_counts`."""

import sys

import pytest
import torch

from dat import models
from dat_engine.attack.attack_model import AttackModel
from tests.engine.step.generated_kernels import compile_ahead
from tests.engine.step.inductor_counts import fake, generated
from tests.engine.step.step_launches import StepLaunches, dat_step_launches

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Triton, whose code is read, is there on Linux only"),
    pytest.mark.timeout(900),
]
IMAGES, STEPS = 128, 5


@pytest.fixture(scope="module")
def step() -> StepLaunches:
    return dat_step_launches(images=IMAGES)


def test_the_grouped_attack_is_one_kernel_a_layer_each_way(step):
    """Forward one behind every convolution; backward 19 instead of the 34 of an affine on a view [groups, images, C, H, W]."""
    forward, backward = (step.graph(backward=way, images=2 * IMAGES, runs=STEPS).code for way in (False, True))
    assert len(forward.launches) <= 17
    assert len(backward.launches) <= 19


def test_the_joint_pass_normalises_all_groups_at_once_and_converts_no_weight(step):
    """One BatchNorm per group would be over 100 kernels more each way; a cast for every weight, forward and back, 43 more."""
    forward, backward = (step.graph(backward=way, images=4 * IMAGES, runs=1).code for way in (False, True))
    assert len(forward.launches) <= 89
    assert len(backward.launches) <= 99


def test_launches_of_a_whole_step(step):
    """894 of them: 720 in compiled code, 390 of those in the five steps of the attack, and 174 outside of it."""
    assert step.operations["dat_kernels.pgd_step_into.default"] == STEPS
    assert step.operations["aten._fused_sgd_.tensor_lr"] == 4  # 102 tensors of the classifier, 48 at a time, and 16
    assert {graph.runs for graph in step.graphs} == {1, STEPS}  # nothing that is compiled is left out
    assert step.compiled <= 720
    assert step.total <= 900


def test_every_kernel_of_a_step_compiles_for_the_gpu(step, tmp_path, monkeypatch, record_property):
    """With an empty cache, so that the time that it takes is that of a first run."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    compiled = compile_ahead((graph.code for graph in step.graphs), tmp_path)
    record_property("seconds of one core", compiled.seconds)
    assert compiled.kernels == sum(len(set(graph.code.launches)) for graph in step.graphs) <= 130
    assert compiled.configurations >= compiled.kernels
    assert len(list((tmp_path / "cache").glob("*/*.cubin"))) >= compiled.kernels


def test_fused_epilogues_leave_only_the_kernels_that_no_convolution_can_take_along():
    """Forward the biases of the two shortcuts and the pooling, instead of the 7 of one for each layer; backward the same 9."""
    model = models.build("resnet8", num_classes=10)
    view = AttackModel(model, dtype=torch.bfloat16, memory_format=torch.channels_last, fused_epilogues=True)
    module = view._modules[("base",)]
    with fake(module):
        images = torch.empty(IMAGES, 3, 32, 32, dtype=torch.bfloat16, memory_format=torch.channels_last)
        forward, backward = generated(module, images.requires_grad_())
    assert forward.library_calls.count("dat_engine.convolution_relu.default") == 7
    assert len(forward.library_calls) == 10  # with the shortcuts' convolutions and the linear layer
    assert len(forward.launches) <= 3
    assert len(backward.launches) <= 9
