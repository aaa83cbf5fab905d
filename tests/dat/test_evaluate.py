"""The evaluation protocol on models whose accuracy under attack is known in closed form."""

import copy

import pytest
import torch
from torch import nn

from dat.evaluation import ATTACKS, evaluate, parse_attacks
from dat_engine.data import ImageArrays


def arrays(brightness: list[int], labels: list[int]) -> ImageArrays:
    images = torch.tensor(brightness, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    return ImageArrays(images=images, targets=torch.tensor(labels), class_names=("dark", "bright"))


class Threshold(nn.Module):
    """Bright where the mean exceeds 1/2; a distance of eps to the threshold is exactly what an attack needs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 2)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 16) / 16 * 20)
            self.linear.bias.copy_(torch.tensor([10.0, -10.0]))

    def forward(self, images):
        return self.linear(images.flatten(1))


# distances to 127.5: 100 (safe), 30 (safe), 6 (falls at eps 8/255), 3 (falls), and one that is wrong already
DATA = arrays([227, 97, 133, 124, 150], [1, 0, 1, 0, 0])


@pytest.mark.parametrize("attack", ["fgsm", "pgd20", "pgd100", "cw"])
def test_attacks_find_exactly_the_images_within_reach(attack):
    result = evaluate(Threshold(), DATA, ("natural", attack), epsilon=8 / 255)
    assert (result["natural"], result.images) == (80.0, 5)
    assert result[attack] == 40.0


def test_radius_matters():
    tiny = evaluate(Threshold(), DATA, ("pgd20",), epsilon=1 / 255)
    huge = evaluate(Threshold(), DATA, ("pgd20",), epsilon=0.5)
    assert (tiny["pgd20"], huge["pgd20"]) == (80.0, 0.0)


def test_autoattack_agrees_on_the_closed_form():
    pytest.importorskip("pyautoattack", reason="the optional package pyautoattack is not installed")
    torch.manual_seed(0)
    wide = nn.Sequential(Threshold(), nn.Linear(2, 10, bias=False))
    with torch.no_grad():
        wide[1].weight.zero_()
        wide[1].weight[0, 0] = wide[1].weight[1, 1] = 1.0
        wide[1].weight[2:] = -0.1 * torch.rand(8, 2)
    assert evaluate(wide, DATA, ("aa",), epsilon=8 / 255)["aa"] == 40.0


def test_the_model_and_global_state_are_left_as_they_were():
    model = nn.Sequential(nn.BatchNorm2d(1), Threshold()).train()
    before = copy.deepcopy(model.state_dict())
    rng = torch.get_rng_state()
    evaluate(model, DATA, ("natural", "pgd20"), epsilon=8 / 255)
    assert model.training and all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)


def test_same_seed_same_result_for_any_batch_size_of_a_deterministic_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    noisy = ImageArrays(
        images=torch.randint(0, 256, (64, 1, 4, 4), dtype=torch.uint8),
        targets=torch.arange(64) % 2,
        class_names=("dark", "bright"),
    )
    results = [evaluate(model, noisy, ("pgd20", "cw"), epsilon=0.02, batch_size=16, seed=3) for _ in range(2)]
    assert results[0] == results[1]


def test_attack_lists():
    assert parse_attacks("natural, pgd20") == ("natural", "pgd20")
    assert parse_attacks(",".join(ATTACKS)) == ATTACKS
    for text, message in (
        ("", "comma-separated choice of natural, fgsm"),
        ("pgd", "no attack is called 'pgd'; did you mean pgd20"),
        ("natural,foo", "no attack is called 'foo'; choose one of natural, fgsm"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_attacks(text)
