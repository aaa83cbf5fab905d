"""The sections of a run and the stages in which they are run.

Gates run side by side; whatever measures time has the GPU to itself. A section is a call of `run(setting, record, *words)`
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
    helps: bool = False
    """Only makes others faster: it does not matter how it ends."""
    module: str = ""
    """Its module in `bench.gpu_acceptance`, where that is not called as the section."""
    words: tuple[str, ...] = ()
    """What `run` is given besides."""


CEILINGS = Section(name="ceilings", summary="copy bandwidth and matrix-product rates of this GPU", limit=40, times=True)
GATES = (
    Section(
        name="warm_compiler",
        summary="fills the compiler's cache for step_times; checks nothing",
        limit=180,
        helps=True,
    ),
    Section(
        name="mix_gates_32",
        summary="amplitude_mix at 32 pixels, CIFAR's, against float64",
        limit=120,
        module="mix_gates",
        words=("32",),
    ),
    Section(
        name="mix_gates_64",
        # its kernels take longest to compile
        summary="amplitude_mix at 64 pixels, Tiny-ImageNet's, against float64",
        limit=150,
        module="mix_gates",
        words=("64",),
    ),
    Section(
        name="mix_gates_rest",
        summary="amplitude_mix at 16 pixels and through torch.fft",
        limit=120,
        module="mix_gates",
        words=("16", "other"),
    ),
    Section(
        name="pointwise_gates", summary="pgd_step bit for bit, pgd_start, augment; all under torch.compile", limit=120
    ),
    Section(
        name="step_gates",
        summary="the step against the float64 oracle; eager = compiled; streams = grouped; fp16",
        limit=180,
    ),
    Section(
        name="graph_gates",
        summary="the captured step: same bits, schedule, random numbers, resumption, bad steps, no host wait",
        limit=180,
    ),
    Section(name="determinism_gates", summary="two runs of one seed under --deterministic: the same bits", limit=150),
    Section(name="capture_failure", summary="a capture that fails: the step runs on, memory does not grow", limit=90),
    Section(name="data_gates", summary="resident loader and prefetching on a side stream", limit=60),
)
TIMES = (
    Section(name="kernel_times", summary="the kernels against copy bandwidth", limit=60, times=True),
    Section(
        name="step_times",
        summary="DAT, PGD-AT and the eager baselines: epoch, ratios, GPU busy, memory, FLOP/s",
        limit=240,
        times=True,
    ),
    Section(
        name="optimizers", summary="torch's fused SGD and NVIDIA apex's: right, and how fast", limit=45, times=True
    ),
    Section(
        name="dali", summary="DALI's loader against the resident one, where DALI is installed", limit=60, times=True
    ),
)
STAGES: tuple[tuple[Section, ...], ...] = ((CEILINGS,), GATES, *((section,) for section in TIMES))
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
