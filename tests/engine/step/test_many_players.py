"""Methods of several networks and perturbed and averaged weights in two gloo processes: all of them end with the same."""

import subprocess
from pathlib import Path

import pytest
import torch

from tests.engine.run.test_distributed import ROOT, TORCHRUN, environment

WORKER = Path(__file__).parent / "many_players_worker.py"


@pytest.mark.slow
def test_players_perturbation_and_a_frozen_part_in_two_processes(tmp_path):
    command = [*TORCHRUN, str(WORKER), str(tmp_path)]
    result = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-3000:]
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for method in ("las-at", "atop"):
        for name, weight in one[method]["parameters"].items():  # statistics are each process's own
            assert torch.equal(weight, other[method]["parameters"][name]), (method, name)
        for name, value in one[method]["average"].items():  # those of an average are everybody's
            assert torch.equal(value, other[method]["average"][name]), (method, name)
    for name, weight in one["las-at"]["policy"].items():
        assert torch.equal(weight, other["las-at"]["policy"][name]), name
    moved = {name for name, value in one["atop"]["model"].items() if not torch.equal(value, one["atop"]["first"][name])}
    assert moved and all(name.startswith("0.") for name in moved)
    assert not torch.equal(one["las-at"]["model"]["0.weight"], one["las-at"]["first"]["0.weight"])
