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
    "kernels/test_amplitude_mix.py",
)
ATTACK_TESTS = ("engine/attack/test_attack_model.py", "engine/attack/test_pgd.py", "engine/step/test_switches.py")

CEILINGS = Section(name="ceilings", summary="copy bandwidth and matrix-product rates of this GPU", limit=40, times=True)
HEADLINE_GATES = (
    Section(
        name="warm_compiler",
        summary="fills the compiler's cache for step_times; checks nothing",
        limit=180,
        helps=True,
    ),
    Section(
        name="graph_gates",
        summary="the captured step: same bits, schedule, random numbers, resumption, bad steps, no host wait",
        limit=180,
    ),
    Section(
        name="step_gates",
        summary="the step against the float64 oracle; eager = compiled; streams = grouped; fp16",
        limit=180,
    ),
    Section(
        name="mix_gates_32",
        summary="amplitude_mix at 32 pixels, CIFAR's, against float64",
        limit=120,
        module="mix_gates",
        words=("32",),
    ),
    Section(
        name="kernel_tests",
        summary="the kernels' tests that take their device from a fixture: pytest -m gpu",
        limit=180,
        module="gpu_tests",
        words=KERNEL_TESTS,
    ),
    Section(
        name="attack_tests",
        summary="the engine's tests that take their device from a fixture: pytest -m gpu",
        limit=120,
        module="gpu_tests",
        words=ATTACK_TESTS,
    ),
    Section(name="data_gates", summary="resident loader and prefetching on a side stream", limit=60),
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
    Section(
        name="mix_gates_64",
        # its kernels take longest to compile
        summary="amplitude_mix at 64 pixels, Tiny-ImageNet's, against float64",
        limit=150,
        module="mix_gates",
        words=("64",),
        optional=True,
    ),
    Section(
        name="mix_gates_rest",
        summary="amplitude_mix at 16 pixels and through torch.fft",
        limit=120,
        module="mix_gates",
        words=("16", "other"),
        optional=True,
    ),
    Section(
        name="capture_failure",
        summary="a capture that fails: the step runs on, memory does not grow",
        limit=90,
        optional=True,
    ),
    Section(
        name="repeatability",
        summary="one seed, two runs: the same bits, or which tensors differ",
        limit=120,
        optional=True,
    ),
    Section(
        name="kill_resume",
        summary="dat train, killed by SIGKILL and resumed by the command line",
        limit=180,
        optional=True,
    ),
    Section(
        name="determinism_gates",
        summary="two runs of one seed under --deterministic: the same bits",
        limit=150,
        optional=True,
    ),
)
EXTRAS = (
    Section(
        name="switches",
        summary="the DAT step with cuDNN's benchmark off, the generator compiled, TF32, a padded stem, dependent launches",
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
        summary="torch's fused SGD and NVIDIA apex's: right, and how fast",
        limit=45,
        times=True,
        optional=True,
    ),
    Section(
        name="dali",
        summary="DALI's loader against the resident one, where DALI is installed",
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
