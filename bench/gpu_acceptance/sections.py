"""The sections of a run and the stages in which they are run.

What the headline figures need and the figures themselves come first, the rest while time is left. Gates run side by side;
whatever measures time has the GPU to itself. A section is a call of `run(setting, record, *words)`
of a module of this package.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One section, in a process of its own."""

    name: str
    summary: str
    limit: float
    """Seconds after which it is stopped."""
    times: bool = False
    """Measures times: nothing else runs meanwhile."""
    optional: bool = False
    """Nothing of the verdict hangs on it: where no time is left it is skipped, and so is what it does not come to do."""
    helps: bool = False
    """Only makes others faster: it does not matter how it ends."""
    module: str = ""
    """Its module in `bench.gpu_acceptance`, where that is not called as the section."""
    words: tuple[str, ...] = ()
    """What `run` is given besides."""


KERNEL_TESTS = (
    "kernels/test_pgd_step.py",
    "kernels/test_augment.py",
    "kernels/test_pgd_start.py",
    "kernels/test_pgd_per_sample.py",
)
ATTACK_TESTS = (
    "engine/attack/test_attack_model.py",
    "engine/attack/test_fused_epilogues.py",
    "engine/attack/test_pgd.py",
    "engine/step/test_switches.py",
)
STEP_TESTS = (
    "engine/step/test_adamw.py",
    "engine/step/test_averages.py",
    "engine/step/test_extension_points.py",
    "engine/step/test_means.py",
    "engine/step/test_scalar_schedule.py",
    "engine/step/test_shared_weights.py",
    "engine/step/test_weight_perturbation.py",
    "engine/step/test_whole_or_not.py",
)
MIX_TESTS = "kernels/test_amplitude_mix_calls.py"


def of_tests(name: str, summary: str, *files: str, limit: float, optional: bool = False) -> Section:
    """A section that is tests: `gpu_tests` calls each of these files below tests/ with pytest's options that follow it."""
    return Section(name=name, summary=summary, limit=limit, optional=optional, module="gpu_tests", words=files)


CEILINGS = Section(name="ceilings", summary="copy bandwidth and matrix-product rates of this GPU", limit=40, times=True)
HEADLINE_GATES = (
    Section(
        name="warm_compiler",
        summary="fills the compiler's cache for step_times; checks nothing",
        limit=180,
        helps=True,
    ),
    of_tests(
        "graph_gates",
        "the captured step: same bits, schedule, random numbers, resumption, bad steps, no host wait",
        "engine/step/test_graph.py",
        limit=180,
    ),
    of_tests(
        "step_gates",
        "the step against the float64 oracle; eager = compiled; streams = grouped; fp16",
        "dat/test_step_against_oracle.py",
        "engine/step/test_ways_of_running.py",
        limit=180,
    ),
    of_tests(
        "mix_gates_32", "amplitude_mix at 32 pixels, CIFAR's, against float64", f"{MIX_TESTS} -k 32x32", limit=120
    ),
    of_tests("kernel_tests", "the other kernels on this device", *KERNEL_TESTS, limit=180),
    of_tests("attack_tests", "the attack and the switches of a step on this device", *ATTACK_TESTS, limit=120),
    of_tests(
        "data_gates",
        "resident loader and prefetching on a side stream",
        "engine/data/test_resident_on_device.py",
        limit=60,
    ),
)
HEADLINES = (
    Section(name="kernel_times", summary="the kernels against copy bandwidth", limit=60, times=True),
    Section(
        name="step_times",
        summary="DAT, PGD-AT and the eager baselines: epoch, ratios, GPU busy, kernels, memory, FLOP/s",
        limit=200,
        times=True,
    ),
    Section(
        name="trainer_epoch",
        summary="an epoch through dat train's own path: its wall time against its steps",
        limit=120,
        times=True,
        optional=True,
    ),
)
OTHER_GATES = (
    # its kernels take longest to compile
    of_tests(
        "mix_gates_64",
        "amplitude_mix at 64 pixels, Tiny-ImageNet's, against float64",
        f"{MIX_TESTS} -k 64x64",
        limit=150,
        optional=True,
    ),
    of_tests(
        "mix_gates_rest",
        "amplitude_mix at 16 pixels and through torch.fft",
        f"{MIX_TESTS} -k 'not 32x32 and not 64x64'",
        limit=120,
        optional=True,
    ),
    of_tests(
        "capture_failure",
        "a capture that fails: the step runs on, memory does not grow",
        "engine/step/test_graph_failure.py",
        limit=90,
        optional=True,
    ),
    of_tests(
        "repeatability",
        "one seed, two runs: the same bits, or which tensors differ",
        "engine/step/test_two_runs.py -k alike",
        limit=120,
        optional=True,
    ),
    of_tests(
        "kill_resume",
        "dat train, killed by SIGKILL and resumed by the command line",
        "dat/test_kill_on_device.py",
        limit=180,
        optional=True,
    ),
    of_tests(
        "determinism_gates",
        "two runs of one seed under --deterministic: the same bits",
        "engine/step/test_two_runs.py -k deterministic",
        limit=150,
        optional=True,
    ),
    of_tests(
        "step_tests",
        "optimizers, averages, weight perturbation, schedules and other methods' steps on this device",
        *STEP_TESTS,
        limit=180,
        optional=True,
    ),
    of_tests(
        "optimizer_tests",
        "torch's fused SGD and NVIDIA apex's against float64, and in a graph",
        "engine/step/test_fused_sgd.py",
        limit=60,
        optional=True,
    ),
    of_tests(
        "dali_tests",
        "DALI's loader against the resident one, where DALI is installed",
        "engine/data/test_dali_on_device.py",
        limit=60,
        optional=True,
    ),
)
EXTRAS = (
    Section(
        name="switches",
        summary="the DAT step with cuDNN's benchmark off, the generator compiled and in TF32 or bf16, a padded stem, fused "
        "epilogues, dependent launches",
        limit=300,
        times=True,
        optional=True,
    ),
    Section(
        name="kernel_times_other_sizes",
        summary="amplitude_mix at 16 and 64 pixels against copy bandwidth",
        limit=40,
        times=True,
        module="kernel_times",
        words=("other sizes",),
        optional=True,
    ),
    Section(
        name="optimizers",
        summary="how fast torch's fused SGD and NVIDIA apex's are",
        limit=45,
        times=True,
        optional=True,
    ),
    Section(
        name="dali",
        summary="how fast DALI's loader is, where DALI is installed",
        limit=60,
        times=True,
        optional=True,
    ),
    Section(
        name="dram_bytes",
        summary="bytes that three kernels move through device memory, by Nsight Compute",
        limit=90,
        times=True,
        optional=True,
    ),
    Section(
        name="training",
        summary="accuracy over minutes of training on CIFAR-10: DAT joint and alternating, PGD-AT (--train-minutes)",
        limit=3600,
        times=True,
        optional=True,
    ),
)
STAGES: tuple[tuple[Section, ...], ...] = (
    (CEILINGS,),
    HEADLINE_GATES,
    *((section,) for section in HEADLINES),
    OTHER_GATES,
    *((section,) for section in EXTRAS),
)
SECTIONS: dict[str, Section] = {section.name: section for stage in STAGES for section in stage}


def chosen(names: list[str]) -> tuple[tuple[Section, ...], ...]:
    """The stages with only the named sections in them; all for no name.

    Raises:
        ValueError: a name that is no section.
    """
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise ValueError(f"no section is called {', '.join(unknown)}; sections are {', '.join(SECTIONS)}")
    wanted = names or list(SECTIONS)
    stages = (tuple(section for section in stage if section.name in wanted) for stage in STAGES)
    return tuple(stage for stage in stages if stage)
