"""``dat doctor``: what this machine offers, and what to do about what it lacks."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from importlib import metadata

import torch
from rich.console import Console
from rich.markup import escape

from dat_engine.step.apex_sgd import why_unusable
from dat_kernels import available_backends


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the report; a `required` finding that is not `good` makes the exit code 1."""

    subject: str
    good: bool
    text: str
    required: bool = False


def examine() -> list[Finding]:
    """Look at versions, devices, kernel backends and optional packages; imports nothing heavy."""
    return [_torch(), _torchvision(), _device(), _native_kernels(), _triton(), *_optional_packages(), _apex()]


def print_report() -> int:
    """Print what `examine` finds; returns the exit code, 1 where something required is missing."""
    findings = examine()
    console = Console()
    for finding in findings:
        mark = "[green]ok[/green]  " if finding.good else "[yellow]note[/yellow]"
        text = f"{mark}  [bold]{finding.subject:14}[/bold] {escape(finding.text)}"
        console.print(text, highlight=False, soft_wrap=True)
    return 0 if all(finding.good or not finding.required for finding in findings) else 1


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch() -> Finding:
    return Finding(
        subject="torch",
        good=True,
        text=f"{torch.__version__}, {torch.get_num_threads()} threads on {os.cpu_count()} cores, "
        f"{torch.backends.cpu.get_cpu_capability()}",
        required=True,
    )


def _torchvision() -> Finding:
    try:
        import torchvision
    except Exception as error:  # a torchvision of another torch build fails in its own ways
        return Finding(
            subject="torchvision",
            good=False,
            text=f"does not load ({error}); install the release that matches torch {torch.__version__}",
            required=True,
        )
    return Finding(subject="torchvision", good=True, text=torchvision.__version__, required=True)


def _device() -> Finding:
    if not torch.cuda.is_available():
        return Finding(subject="GPU", good=False, text="none that torch can see: everything runs on the CPU")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding(subject="GPU", good=True, text=f"{', '.join(names)} (CUDA {torch.version.cuda})")


def _native_kernels() -> Finding:
    if "native" in available_backends():
        return Finding(subject="native kernels", good=True, text="compiled CPU kernels are in use")
    return Finding(
        subject="native kernels",
        good=False,
        text="not built, so the PyTorch reference serves the CPU; install a C++20 compiler and the Python headers "
        "(Debian: g++ and python3-dev) and reinstall dat-engine",
    )


def _triton() -> Finding:
    version = _version("triton")
    if version is None:
        return Finding(subject="triton", good=False, text="not installed: GPU kernels fall back to PyTorch")
    usable = "in use on the GPU" if torch.cuda.is_available() else "installed; needs a GPU to be used"
    return Finding(subject="triton", good=True, text=f"{version}, {usable}")


def _optional_packages() -> list[Finding]:
    findings = []
    for subject, module, extra, purpose in (
        ("AutoAttack", "pyautoattack", "autoattack", "dat evaluate --attacks aa"),
        ("DALI", "nvidia.dali", "dali", "image folders decoded by DALI"),
        ("submitit", "submitit", "sweep", "dat sweep --executor local and slurm"),
    ):
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:
            found = False
        text = f"installed ({purpose})" if found else f"not installed ({purpose}): pip install 'dat-engine[{extra}]'"
        findings.append(Finding(subject=subject, good=found, text=text))
    return findings


def _apex() -> Finding:
    reason = why_unusable()
    text = f"{reason}; torch's fused SGD serves" if reason else "NVIDIA's, for --optimizer.implementation apex on a GPU"
    return Finding(subject="apex", good=reason is None, text=text)
