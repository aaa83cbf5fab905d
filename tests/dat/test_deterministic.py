"""--deterministic: two runs of one seed leave the same bits, and what cannot be kept is said."""

import json
from pathlib import Path

import pytest
import torch

from dat.cli import main
from dat_engine.errors import RunFailedError, UserError
from dat_engine.run.checkpoint import load
from dat_engine.run.determinism import deterministic, reserve_workspaces

TINY = [
    *("--limit-train", "32", "--batch-size", "16", "--model.width", "4", "--data.validation", "20", "--epochs", "2"),
    *("--evaluation.attacks", "natural", "--evaluation.limit", "10", "--device", "cpu", "--progress", "silent"),
]
CLOCKS = {"seconds", "images_per_second"}


def trained(run: Path, *flags: str) -> tuple[dict, list[dict]]:
    assert main(["train", "digits-resnet", *TINY, "--deterministic", "--run-dir", str(run), *flags]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    state = load(max((run / "checkpoints").glob("step-*")))
    return state["training"], [{name: row[name] for name in row if name not in CLOCKS} for row in rows]


@pytest.mark.parametrize(
    "execution", ["eager", pytest.param("compiled", marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_two_runs_of_one_seed_have_the_same_bits(tmp_path, execution):
    flags = ("--engine.execution", execution)
    one, other = trained(tmp_path / "a", *flags), trained(tmp_path / "b", *flags)
    assert repr(one[1]) == repr(other[1])
    for part in ("model", "players"):
        assert flat(one[0][part]) == flat(other[0][part])
    assert not torch.are_deterministic_algorithms_enabled(), "afterwards all is as it was"
    assert json.loads((tmp_path / "a" / "config.json").read_text())["run"]["deterministic"] is True


def flat(value) -> list[bytes]:
    if isinstance(value, dict):
        return [piece for entry in value.values() for piece in flat(entry)]
    return [value.numpy().tobytes()]


def test_an_operation_without_a_deterministic_algorithm_is_a_sentence():
    with pytest.raises(RunFailedError, match="no deterministic algorithm for put_ on this device"), deterministic():
        raise RuntimeError("put_ does not have a deterministic implementation, but you set ...")
    with pytest.raises(RuntimeError, match="something else"), deterministic():
        raise RuntimeError("something else")
    assert not torch.are_deterministic_algorithms_enabled()


def test_another_workspace_is_refused(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(UserError, match="needs CUBLAS_WORKSPACE_CONFIG to be :4096:8 or :16:8, not ':0:0'; unset it"):
        reserve_workspaces()
