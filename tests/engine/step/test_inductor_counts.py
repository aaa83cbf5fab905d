"""Launches of a compiled step's large parts on a GPU, by the code that Inductor writes for one; see `inductor_counts`."""

import sys

import pytest
import torch
from torch.func import functional_call

from dat import models
from dat_engine.attack.attack_model import AttackModel
from dat_engine.model.branches import branch_layout, normalise_at_once
from tests.engine.step.inductor_counts import fake, generated

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Triton, whose code is read, is there on Linux only"),
    pytest.mark.timeout(900),
]
ATTACKED, JOINT = ("base", "mix"), ("base", "base", "mix", "mix")
IMAGES = 128


def test_the_grouped_attack_is_one_kernel_a_layer_each_way():
    """Forward one behind every convolution; backward 19 instead of the 34 of an affine on a view [groups, images, C, H, W]."""
    model = models.build("resnet18", num_classes=10)
    view = AttackModel(model, (ATTACKED,), dtype=torch.bfloat16, memory_format=torch.channels_last, branching="grouped")
    module = view._modules[ATTACKED]
    with fake(module):
        images = torch.empty(2 * IMAGES, 3, 32, 32, dtype=torch.bfloat16, memory_format=torch.channels_last)
        forward, backward = generated(module, images.requires_grad_())
    assert len(forward.launches) <= 17
    assert len(backward.launches) <= 19


def test_the_joint_pass_normalises_all_groups_at_once_and_converts_no_weight():
    """One BatchNorm per group would be over 100 kernels more each way; a cast for every weight, forward and back, 43 more."""
    model = models.build("resnet18", num_classes=10)
    names = list(AttackModel(model, (ATTACKED,), dtype=torch.bfloat16, branching="grouped").weight_copies)
    assert len(names) == 22  # 20 convolutions, and the linear layer's weight and bias
    model.to(memory_format=torch.channels_last).train()
    normalise_at_once(model)
    with fake(model), branch_layout(model, JOINT), torch.autocast("cpu", torch.bfloat16):
        images = torch.empty(4 * IMAGES, 3, 32, 32, memory_format=torch.channels_last)
        copies = [model.get_parameter(name).detach().bfloat16().requires_grad_() for name in names]
        forward, backward = generated(
            lambda images, *copies: functional_call(model, dict(zip(names, copies, strict=True)), (images,)),
            images.requires_grad_(),
            *copies,
        )
    assert len(forward.launches) <= 89
    assert len(backward.launches) <= 99


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
