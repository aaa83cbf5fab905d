"""On what, and with what, a figure was made: versions, source commit and hardware."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "torchvision", "triton", "safetensors", "dat-engine")


def describe_environment() -> dict[str, Any]:
    """What a reader needs to judge or repeat a run; JSON types only, None for what is not there or cannot be found out.

    `date` (UTC, ISO 8601, seconds); `versions` of python, the packages, CUDA and cuDNN; `git_commit` and `git_dirty`
    (tracked files differ from the commit) when this source lies in a git checkout; `hardware`: `cpu`, `cores` (usable
    by this process), `memory_gib`, `gpu` (name), `gpu_count`, `gpu_memory_gib`. Names no machine and no user.
    """
    commit, dirty = _source_commit(Path(__file__).resolve())
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        "git_commit": commit,
        "git_dirty": dirty,
        "hardware": {"cpu": _cpu_name(), "cores": _usable_cores(), "memory_gib": _memory_gib(), **_gpu()},
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    found["torch"] = torch.__version__  # names the build too: 2.11.0+cu130
    found["cuda"] = torch.version.cuda
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    found["cudnn"] = None if cudnn is None else str(cudnn)
    return found


def _source_commit(source: Path) -> tuple[str | None, bool | None]:
    """Commit and dirtiness of the checkout that tracks the file `source`, else (None, None).

    That git knows the file matters: a package installed into a virtual environment inside somebody's own repository
    must not report that repository's commit.
    """
    if _git(source.parent, "ls-files", "--error-unmatch", source.name) is None:
        return None, None
    commit = _git(source.parent, "rev-parse", "HEAD")
    changes = _git(source.parent, "status", "--porcelain", "--untracked-files=no")
    return commit, None if changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    # inside a git hook GIT_DIR and its like point at another repository; no lock, since this only looks
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (OSError, ValueError):
        return None


def _gpu() -> dict[str, Any]:
    try:
        if torch.cuda.is_available():
            properties = torch.cuda.get_device_properties(torch.cuda.current_device())
            return {
                "gpu": properties.name,
                "gpu_count": torch.cuda.device_count(),
                "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
            }
    except RuntimeError:  # a driver that is broken or too old: a run on the CPU must still start
        pass
    return {"gpu": None, "gpu_count": 0, "gpu_memory_gib": None}
