"""Schedules of scalars: their values at and between the ends, and that a compiled function follows them."""

import pytest
import torch

from dat_engine.step.progress import TrainingProgress
from dat_engine.step.scalar_schedule import epoch_number, linear_ramp, switched_on


def test_values_at_the_ends_and_between_them():
    epochs = torch.tensor([0.0, 1.999, 2.0, 3.0, 4.0, 9.0])
    assert switched_on(epochs, start=2.0).tolist() == [0, 0, 1, 1, 1, 1]
    assert epoch_number(epochs).tolist() == [1, 2, 3, 4, 5, 10]
    assert linear_ramp(epochs, start=2.0, end=4.0).tolist() == [0, 0, 0, 0.5, 1, 1]
    assert linear_ramp(epochs, start=2.0, end=4.0, before=3.0, after=1.0).tolist() == [3, 3, 3, 2, 1, 1]
    assert linear_ramp(torch.tensor(0.25), end=1.0).tolist() == 0.25


def test_a_ramp_without_length_is_refused():
    with pytest.raises(ValueError, match="a ramp needs an end behind its start; got 3 to 3"):
        linear_ramp(torch.tensor(0.0), start=3.0, end=3.0)


def test_a_compiled_function_follows_the_progress_without_another_graph(device):
    def weight(epoch, fraction):
        return switched_on(epoch, start=2.0) * linear_ramp(fraction, end=1.0, before=1.0, after=0.0) + epoch_number(
            epoch
        )

    compiled = torch.compile(weight, backend="aot_eager", fullgraph=True)
    progress = TrainingProgress.at_start(device)
    compiled(progress.epoch, progress.fraction)
    with torch.compiler.set_stance("fail_on_recompile"):
        for epoch in (0.5, 2.0, 3.5):
            progress.set(epoch=epoch, fraction=epoch / 4)
            found = compiled(progress.epoch, progress.fraction)
            assert float(found) == (epoch >= 2) * (1 - epoch / 4) + int(epoch) + 1
