"""What a view must not get wrong: layers it cannot know, and how it finds out that it has."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from dat_engine.attack.attack_model import AttackModel
from dat_engine.attack.folding import GroupAffine
from dat_engine.attack.verification import own_logits
from dat_engine.model.branches import convert_batchnorm
from dat_engine.model.synchronised import SynchronisedBatchNorm, synchronise_batchnorm

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class NormAndReLU(nn.BatchNorm2d):
    """BatchNorm with an activation of its own, as timm's BatchNormAct2d."""

    def __init__(self, channels: int, slope: float = 0.0) -> None:
        super().__init__(channels)
        self.slope = slope

    def forward(self, features):
        return functional.leaky_relu(super().forward(features), self.slope)


class CentredConvolution(nn.Conv2d):
    """Weight-standardised, as timm's StdConv2d."""

    def forward(self, features):
        return self._conv_forward(features, self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True), self.bias)


def network(convolution: nn.Module | None = None, norm: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    convolution, norm = convolution or nn.Conv2d(3, 6, 3), norm or nn.BatchNorm2d(6)
    model = nn.Sequential(convolution, norm, nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 5))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def hooked() -> nn.Module:
    model = network()
    model[0].register_forward_hook(lambda module, inputs, output: output.square())
    return model


def pruned() -> nn.Module:
    convolution = nn.Conv2d(3, 6, 3)
    prune.l1_unstructured(convolution, "weight", amount=0.5)
    return network(convolution)


def twice_called() -> nn.Module:
    shared = nn.Conv2d(6, 6, 1)
    norm = nn.BatchNorm2d(6)
    return nn.Sequential(network()[0], shared, norm, shared, norm, nn.Flatten(), nn.Linear(216, 5))


def weight_normed_the_old_way(wrap=nn.utils.weight_norm) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return network(wrap(nn.Conv2d(3, 6, 3)))


LAYERS = {
    "BatchNorm with an activation": lambda: network(norm=NormAndReLU(6)),
    "convolution with a forward of its own": lambda: network(CentredConvolution(3, 6, 3)),
    "weight norm": lambda: network(parametrizations.weight_norm(nn.Conv2d(3, 6, 3))),
    "spectral norm": lambda: network(parametrizations.spectral_norm(nn.Conv2d(3, 6, 3))),
    "weight norm by hook": weight_normed_the_old_way,
    "spectral norm by hook": lambda: weight_normed_the_old_way(nn.utils.spectral_norm),
    "pruned convolution": pruned,
    "hook on a convolution": hooked,
    "layers that are called twice": twice_called,
    "BatchNorm without affine": lambda: network(norm=nn.BatchNorm2d(6, affine=False)),
    "BatchNorm with cumulative mean": lambda: network(norm=nn.BatchNorm2d(6, momentum=None)),
    "BatchNorm without statistics": lambda: network(norm=nn.BatchNorm2d(6, track_running_stats=False)),
    "instance norm and dropout": lambda: network(norm=nn.Sequential(nn.InstanceNorm2d(6), nn.Dropout(0.5))),
}


@pytest.mark.parametrize("branching", ["folded", "grouped"])
@pytest.mark.parametrize("converted", [False, True], ids=["plain", "branched"])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_view_follows_whatever_the_layer_does(kind, converted, branching):
    model = LAYERS[kind]()
    layout = ("base",)
    if converted:
        before = own_logits(model, IMAGES, ("base",))
        convert_batchnorm(model)
        layout = ("base", "mix")
        assert torch.equal(own_logits(model, IMAGES, ("mix",)), before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack_model = AttackModel(model, (layout,), branching=branching)
        for _ in range(3):  # as built, and after each change of the weights
            attack_model.refresh()
            sample = IMAGES.repeat(len(layout), 1, 1, 1)
            expected = own_logits(model, sample, layout) if branching == "grouped" else one_by_one(model, layout)
            torch.testing.assert_close(attack_model.logits(sample, layout), expected, rtol=1e-4, atol=1e-5)
            train_a_little(model)


def one_by_one(model: nn.Module, layout: tuple[str, ...]) -> torch.Tensor:
    return torch.cat([own_logits(model, IMAGES, (branch,)) for branch in layout])


def train_a_little(model: nn.Module) -> None:
    """A step whose passes also move statistics and spectral norm's vectors."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model(IMAGES).square().mean().backward()
    optimizer.step()


def test_plain_layers_are_still_folded():
    for norm in (nn.BatchNorm2d(6), nn.SyncBatchNorm(6), SynchronisedBatchNorm(6)):
        attack_model = AttackModel(network(norm=norm))
        names = {type(module).__name__ for module in attack_model._groups[("base",)].modules()}
        assert not any("BatchNorm" in name for name in names) and GroupAffine.__name__ not in names


class Deceptive(nn.Module):
    """Traces without an error into another function than it is."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = network(), nn.Linear(5, 5)

    def forward(self, images):
        features = self.body(images)
        return self.head(features) if isinstance(images, torch.Tensor) else features  # tracing passes a stand-in


def test_a_view_that_differs_is_replaced_with_one_warning_that_names_the_layer():
    model = Deceptive()
    with torch.no_grad():
        expected = copy.deepcopy(model).eval()(IMAGES)
    attack_model = AttackModel(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logits = attack_model.logits(IMAGES)
        attack_model.logits(IMAGES)
    (warning,) = caught
    assert "the folded copy of Deceptive is not used" in str(warning.message)
    torch.testing.assert_close(logits, expected)


def test_the_layer_where_they_part_is_named_and_the_second_check_sees_what_the_first_could_not():
    model = network()
    attack_model = AttackModel(model)
    assert attack_model.verify(IMAGES) is None
    with torch.no_grad():
        model[3].weight.mul_(3.0)
        del attack_model._refresher._targets[:], attack_model._refresher._sources[:], attack_model._refresher._others[:]
    attack_model.refresh()  # which no longer brings anything over
    with pytest.warns(UserWarning, match=r"differ .* first in layer 3 \(BatchNorm2d\)"):
        attack_model.logits(IMAGES)
    torch.testing.assert_close(attack_model.logits(IMAGES), own_logits(model, IMAGES, ("base",)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_no_difference_and_a_lost_activation_is_one(dtype):
    model = network(norm=NormAndReLU(6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AttackModel(model, dtype=dtype).logits(IMAGES)
    attack_model = AttackModel(model, dtype=dtype)
    attack_model._modules[("base",)].get_submodule("1").slope = 1.0
    with pytest.warns(UserWarning, match="is not used"):
        attack_model.logits(IMAGES)


class Restless(nn.BatchNorm2d):
    """Counts and drops out whatever the mode."""

    def forward(self, features):
        self.num_batches_tracked += 1
        return functional.dropout(super().forward(features), 0.5, training=True)


def test_checking_disturbs_nothing():
    model = network(norm=Restless(6)).train()
    model[3].eval()
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    attack_model = AttackModel(model)
    random = torch.get_rng_state()
    attack_model.verify(IMAGES)
    assert torch.equal(torch.get_rng_state(), random)
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


class Changeling(nn.Sequential):
    """Whose copies are another network."""

    def __deepcopy__(self, memo):
        return nn.Sequential(*network(), nn.ReLU())


def test_where_even_a_plain_copy_differs_the_view_says_so():
    model = Changeling(*network())
    model.register_forward_hook(lambda module, inputs, output: None)
    with pytest.warns(UserWarning, match="cannot be traced .*it has hooks"):
        attack_model = AttackModel(model)
    problem = attack_model.verify(IMAGES)
    assert problem.startswith("Changeling cannot be copied for the attack: its logits differ")
    with pytest.warns(UserWarning, match="those of another network"):
        AttackModel(network())  # an honest attack_model is silent
        attack_model._check_is_due = True
        attack_model.logits(IMAGES)


def test_a_batchnorm_with_a_behaviour_of_its_own_is_not_synchronised():
    model = network(norm=NormAndReLU(6))
    with pytest.raises(ValueError, match="layer 1 is a NormAndReLU with a behaviour of its own"):
        synchronise_batchnorm(model)
    assert type(model[3]) is nn.BatchNorm2d  # nothing is replaced
    plain = twice_called()
    synchronise_batchnorm(plain)
    assert plain[2] is plain[4] and type(plain[2]) is SynchronisedBatchNorm


def test_a_layer_in_two_places_stays_one_layer():
    model = convert_batchnorm(twice_called())
    assert model[2] is model[4]
