"""The gate before the timing, and the picture."""

import json

import pytest
import torch

from bench import kernel_cases, kernels_picture
from bench.kernel_cases import CASES
from dat_kernels import available_backends

CPU = torch.device("cpu")
BUILDERS = {case.operation: case for case in CASES}


@pytest.mark.parametrize("operation", BUILDERS)
def test_every_contender_passes_and_a_wrong_result_does_not(operation, one_thread):
    case = BUILDERS[operation]
    problem = case.build(16, 16, CPU)
    for subject in case.subjects(CPU):
        if subject == kernel_cases.COMPILED:
            continue
        result = problem.task(subject)()
        assert problem.fault(subject, result) is None
        # pgd_start's eager noise is another draw, so only its spread can be checked
        wrong = result + 0.05 * torch.randn(result.shape, generator=torch.Generator().manual_seed(0))
        assert problem.fault(subject, wrong), subject
        assert problem.fault(subject, torch.full_like(result, torch.nan)), subject


def test_one_wrong_sample_of_a_batch_is_found(one_thread):
    problem = kernel_cases.mix(128, 16, CPU)
    result = problem.task("reference")().clone()
    assert problem.fault("reference", result) is None
    result[-1] += 0.01
    assert problem.fault("reference", result)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_contenders_are_eager_first_and_every_backend_of_the_device():
    subjects = CASES[0].subjects(CPU)
    assert subjects[0] == CASES[0].eager[0]
    assert {name for name in available_backends() if name != "triton"} <= set(subjects)


def document():
    times = {"eager": 8.0, "eager, no loop": 16.0, "torch.compile": 4.0, "reference": 9.0, "native": 1.0}
    benchmarks = [
        {
            "group": "augment 2x3x4x4",
            "extra_info": {"subject": name, "baseline": "eager", "milliseconds": time},
        }
        for name, time in times.items()
    ]
    machine = {
        "threads": 2,
        "instruction_set": "avx2",
        "hardware": {"cpu": "a processor", "gpu": None},
        "versions": {"torch": "2.15.0+cpu"},
    }
    return {"machine_info": machine, "benchmarks": benchmarks}


def test_picture_shows_speeds_relative_to_the_baseline(tmp_path):
    (group,) = kernels_picture.groups_of(document())
    assert [(bar.kind, bar.speed, bar.remark) for bar in group.bars] == [
        ("eager", 0.5, "no loop"),
        ("torch.compile", 2.0, ""),
        ("native", 8.0, ""),
    ]
    results, pictures = tmp_path / "results.json", [tmp_path / "first.svg", tmp_path / "second.svg"]
    results.write_text(json.dumps(document()))
    for picture in pictures:
        kernels_picture.main([str(results), str(picture)])
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_picture_of_a_missing_result_says_how_to_make_it(tmp_path):
    with pytest.raises(SystemExit, match="make bench"):
        kernels_picture.main([str(tmp_path / "none.json"), str(tmp_path / "picture.svg")])
