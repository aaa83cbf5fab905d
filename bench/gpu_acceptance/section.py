"""The process of one section (or, in a rehearsal, of several): `python -m bench.gpu_acceptance.section NAME ...`."""

from __future__ import annotations

import argparse
import functools
import gc
import importlib
import time
from pathlib import Path

import torch

from bench.gpu_acceptance.records import Recorder
from bench.gpu_acceptance.sections import SECTIONS
from bench.gpu_acceptance.setting import Setting


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="+")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--rehearsal", action="store_true")
    parser.add_argument("--train-minutes", type=float, default=0.0)
    arguments = parser.parse_args()
    # many models of one architecture in one process: a run of training compiles one
    torch._dynamo.config.recompile_limit = 64
    device = torch.device("cpu")
    if arguments.rehearsal:
        rehearse()
    else:
        device = torch.device("cuda", torch.cuda.current_device())
    for name in arguments.names:
        section = SECTIONS[name]
        setting = Setting(
            device=device,
            rehearsal=arguments.rehearsal,
            data_root=arguments.data_root,
            work=arguments.work,
            ends=time.monotonic() + arguments.seconds,
            optional=section.optional,
            train_minutes=arguments.train_minutes,
        )
        record = Recorder(arguments.work / f"{name}.jsonl")
        module = importlib.import_module(f"bench.gpu_acceptance.{section.module or name}")
        module.run(setting, record, *section.words)
        gc.collect()


def rehearse() -> None:
    """On the CPU torch.compile traces and does not generate code: that would take minutes and is tested elsewhere."""
    torch.set_num_threads(1)
    torch.compile = functools.partial(torch.compile, backend="aot_eager")


if __name__ == "__main__":
    main()
