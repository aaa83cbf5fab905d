"""Over recipes drawn at random: a valid one trains, saves, resumes and evaluates; an invalid one leaves nothing behind."""

import contextlib
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dat.cli import main
from dat.methods import METHODS
from dat_engine.data import AUGMENTATIONS
from dat_engine.run.checkpoint import load

BRIEF = [
    *("--epochs", "1", "--limit-train", "48", "--data.validation", "10", "--device", "cpu", "--progress", "plain"),
    *("--evaluation.attacks", "natural", "--evaluation.limit", "10"),
]
NARROWEST = {"resnet8": 4, "convnext_atto_patch2": 4, "vit_lite_patch4": 16}
ABLATIONS = [
    *("--dat.omega 0", "--dat.lam-low 1", "--dat.lam-high 0.5", "--dat.branches shared", "--dat.attack-start uniform"),
    *("--dat.attack-loss cross-entropy", "--dat.attack-loss kl", "--dat.training-loss pgd-at", "--dat.no-mixed-image"),
    *("--dat.amplitude-from other-image", "--dat.adversarial single --dat.mix-source augmented"),
]


@st.composite
def valid(draw) -> list[str]:
    method = draw(st.sampled_from(["dat", "pgd-at", "trades", "mart", "st", "sar", "dajat", "plain"]))
    model = draw(st.sampled_from(list(NARROWEST)))
    kind = draw(st.sampled_from(["sgd", "adamw"]))
    words = ["digits-resnet", "--method", method, "--model.name", model]
    words += ["--model.width", str(NARROWEST[model] * draw(st.integers(1, 2)))]
    words += ["--batch-size", str(draw(st.sampled_from([2, 3, 5, 8, 16])))]
    words += ["--precision.name", draw(st.sampled_from(["auto", "fp32", "bf16"]))]
    words += [draw(st.sampled_from(["--precision.channels-last", "--precision.no-channels-last"]))]
    words += ["--optimizer.kind", kind, "--optimizer.learning-rate", "0.001"]
    words += ["--engine.branching", draw(st.sampled_from(["auto", "folded", "grouped"]))]
    words += ["--epsilon", str(draw(st.sampled_from([1 / 255, 0.1, 1.0]))), "--seed", str(draw(st.integers(0, 2**62)))]
    mixes = METHODS[method].create.takes_soft_labels
    words += [
        "--data.augmentation",
        draw(st.sampled_from([name for name in AUGMENTATIONS if mixes or name != "cutmix"])),
    ]
    words += ["--schedule.kind", draw(st.sampled_from(["step", "cosine", "one-cycle"]))]
    words += draw(st.sampled_from([[], ["--ema.decay", "0.9"], ["--swa.start", "0", "--awp.gamma", "0.01"]]))
    if method != "plain":
        words += [f"--{method}.steps", str(draw(st.integers(1, 2)))]
    if method == "dat" and draw(st.booleans()):
        words += draw(st.sampled_from(ABLATIONS)).split()
    elif method == "dat":
        words += ["--dat.generator-update", draw(st.sampled_from(["joint", "alternating"]))]
        words += ["--dat.mix-source", draw(st.sampled_from(["original", "augmented"]))]
        words += ["--dat.amplitude-scale", draw(st.sampled_from(["unit", "dataset"]))]
        words += [draw(st.sampled_from(["--dat.attack-path-gradient", "--dat.no-attack-path-gradient"]))]
    return words


INVALID = [
    ["--batch-size", "0"],
    ["--batch-size", "49"],
    ["--epsilon", "8"],
    ["--epsilon", "0"],
    ["--seed", "-1"],
    ["--optimizer.learning-rate", "nan"],
    ["--optimizer.learning-rate", "-0.1"],
    ["--precision.name", "fp64"],
    ["--precision.name", "int8"],
    ["--engine.execution", "graphed"],
    ["--engine.fused-epilogues", "--engine.branching", "grouped"],
    ["--model.width", "-4"],
    ["--model.name", "resnet9"],
    ["--limit-train", "100000"],
    ["--data.validation", "100000"],
    ["--data.augmentation", "mixup"],
    ["--log-every", "0"],
    ["--checkpoint.every", "sometimes"],
    ["--checkpoint.every", "0"],
    ["--checkpoint.keep", "0"],
    ["--max-steps", "0"],
    ["--time-limit", "soon"],
    ["--evaluation.attacks", "natural,bogus"],
    ["--schedule.warmup-epochs", "1"],
    ["--swa.start", "1"],
    ["--awp.start", "0.5", "--awp.gamma", "None"],
    ["--ema.decay", "1"],
]


def said(words: list[str]) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return code, err.getvalue()


def holds_for_a_valid_recipe(words: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        code, error = said(["train", *words, *BRIEF, "--max-steps", "2", "--run-dir", str(run)])
        assert code == 0, error
        assert load(run / "checkpoints" / "step-00000002.safetensors")["position"]["step"] == 2
        code, error = said(["train", "--resume", "--run-dir", str(run), "--max-steps", "3"])
        assert code == 0, error
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert max(steps) == 3 and "natural" in json.loads((run / "summary.json").read_text())["accuracy"]
        code, error = said(["evaluate", str(run), "--attacks", "natural", "--limit", "10", "--device", "cpu"])
        assert code == 0, error


SOME = settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
MANY = settings(SOME, max_examples=20)


@SOME
@given(words=valid())
def test_a_valid_recipe_trains_saves_resumes_and_evaluates(words):
    holds_for_a_valid_recipe(words)


@pytest.mark.slow
@pytest.mark.timeout(900)
@MANY
@given(words=valid())
def test_many_valid_recipes_do(words):
    holds_for_a_valid_recipe(words)


@settings(SOME, max_examples=30)
@given(words=valid(), wrong=st.sampled_from(INVALID))
def test_an_invalid_recipe_is_one_sentence_and_nothing_is_written(words, wrong):
    with tempfile.TemporaryDirectory() as folder:
        code, error = said(["train", *words, *BRIEF, *wrong, "--run-dir", str(Path(folder) / "run")])
        assert code == 2 and "Traceback" not in error, error
        assert len(error.strip().splitlines()) == 1
        assert not list(Path(folder).iterdir())
