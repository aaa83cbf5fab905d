"""What ``dat train`` makes of --epochs and --schedule.milestones, and what it says of it."""

import json

import pytest

from dat.cli.train_flags import parse_train_flags
from dat.recipes import differences
from dat.recipes.reading import recipe_from_dict
from dat.training.rate_drops import say_when_rate_drops
from dat_engine.run.display import Display


class Heard(Display):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def said(*words: str, steps_per_epoch: int = 100) -> Heard:
    recipe, _ = parse_train_flags(words)
    heard = Heard()
    say_when_rate_drops(recipe, steps_per_epoch, heard)
    return heard


def test_a_short_run_says_when_its_rate_drops():
    heard = said("cifar10-resnet18", "--epochs", "6")
    assert heard.notes == ["the learning rate drops at epoch 4 and 4.4 of 6, in proportion to 100 and 110 of 150"]
    assert not heard.warnings
    heard = said("imagefolder", "--epochs", "1")
    assert heard.notes == [
        "the learning rate drops at epoch 0.3333, 0.6667 and 0.8889 of 1, in proportion to 30, 60 and 80 of 90"
    ]


@pytest.mark.parametrize(
    "words", [[], ["--schedule.kind", "cosine", "--epochs", "6"], ["--epochs", "20", "--schedule.milestones", "3", "4"]]
)
def test_nothing_is_said_where_nothing_was_changed_unasked(words):
    heard = said("cifar10-resnet18", *words)
    assert not heard.notes and not heard.warnings


def test_stated_milestones_that_do_nothing_are_warned_of():
    (warning,) = said("cifar10-resnet18", "--epochs", "20", "--schedule.milestones", "10", "110").warnings
    assert "never drops at epoch 110: the run ends before (20 epochs of 100 steps)" in warning
    (warning,) = said("cifar10-resnet18", "--epochs", "20", "--schedule.milestones", "10", "10").warnings
    assert "drops twice at one step" in warning
    (warning,) = said("imagefolder", "--epochs", "1", steps_per_epoch=2).warnings
    assert "never drops at epoch 0.6667 and 0.8889" in warning


def test_fractions_can_be_stated_and_survive_the_config_file():
    recipe, _ = parse_train_flags(["cifar10-resnet18", "--schedule.milestones", "3", "4.25"])
    assert recipe.schedule.milestones == (3, 4.25)
    for words in (["--epochs", "7"], ["--epochs", "7", "--schedule.milestones", "3", "4.25"]):
        recipe, _ = parse_train_flags(["cifar10-resnet18", *words])
        stored = json.loads(json.dumps(recipe.to_dict()))
        assert recipe_from_dict(stored) == recipe
        assert differences(stored, recipe.to_dict()) == []
