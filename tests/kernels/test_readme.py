"""The example in kernels/dat_kernels/README.md runs, and does what the text beside it says."""

import re
from pathlib import Path

import pytest
import torch

import dat_kernels

README = Path(dat_kernels.__file__).parent / "README.md"


@pytest.fixture
def example(one_thread):
    (source,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    torch.manual_seed(0)
    names = {}
    exec(compile(source, str(README), "exec"), names)
    return names


def test_example_attacks_within_the_box_and_reaches_amplitude_and_model(example):
    change = (example["adversarial"] - example["clean"]).abs()
    assert change.max() <= 8 / 255 + 1e-6 and change.mean() > 4 / 255
    loss = torch.nn.functional.cross_entropy
    with torch.no_grad():
        attacked, clean = (
            loss(example["model"](example[name]), example["targets"]) for name in ("adversarial", "clean")
        )
    assert attacked > clean
    assert example["amplitude"].grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in example["model"].parameters())


def test_every_public_name_is_in_the_table():
    text = README.read_text()
    assert [
        name for name in dat_kernels.__all__ if f"`{name}`" not in text and f"`dat_kernels.{name}()`" not in text
    ] == []


def test_every_link_leads_to_a_file():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    assert links and [link for link in links if not (README.parent / link).exists()] == []
