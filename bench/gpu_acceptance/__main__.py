"""`python -m bench.gpu_acceptance`: all GPU correctness gates and all GPU targets in one run of under 8 minutes.

The result is written after every section and every few seconds: a run that is cut off leaves what it had found out.
Works offline and makes its own images. Exit code 0: every gate is green; 1: one is not, or a section did not come to its
end; 2: wrong input. Whether the targets are met is said in the table and does not change the exit code.

    python -m bench.gpu_acceptance                              # writes bench/results/gpu_<name>_<date>.json
    python -m bench.gpu_acceptance --out $OUT                   # everything into one folder, logs too
    python -m bench.gpu_acceptance --only graph_gates --only data_gates
    python -m bench.gpu_acceptance --dry-run-cpu                # every section's code on the CPU, without times
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.gpu_acceptance.clocks import read_clocks
from bench.gpu_acceptance.launch import ROOT, Launch, Outcome, run_stage, run_together
from bench.gpu_acceptance.records import Gate, Status, read, read_details
from bench.gpu_acceptance.result_file import check_folder, file_name, write_companions, write_result
from bench.gpu_acceptance.sections import SECTIONS, Section, chosen
from bench.gpu_acceptance.table import render
from bench.gpu_acceptance.verdict import Verdict, judge
from dat_engine.run.environment import describe_environment

RESULTS = ROOT / "bench" / "results"
BUDGET = 480.0
WRITE_EVERY, CLOCKS_EVERY = 5.0, 15.0
"""Seconds between looks while sections run."""
LOG_LINES = 12


def main(words: Sequence[str] | None = None) -> int:
    arguments = _parse(words)
    if arguments.list:
        for section in SECTIONS.values():
            print(f"{section.name:16} {section.summary}")
        return 0
    try:
        stages = chosen(arguments.only)
    except ValueError as error:
        print(f"gpu_acceptance: {error}", file=sys.stderr)
        return 2
    if not arguments.dry_run_cpu and not torch.cuda.is_available():
        print(
            f"gpu_acceptance: torch {torch.__version__} sees no GPU; --dry-run-cpu runs every section's code on the CPU",
            file=sys.stderr,
        )
        return 2
    try:
        for written in (arguments.out, arguments.json and arguments.json.parent):
            if written is not None:
                check_folder(written)
    except OSError as error:
        print(f"gpu_acceptance: cannot write into {written} ({error.strerror}); name another folder", file=sys.stderr)
        return 2
    obeyed = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _end_in_order) for number in obeyed}
    environment = describe_environment()
    if arguments.commit:
        environment["git_commit"] = arguments.commit
    with tempfile.TemporaryDirectory(prefix="gpu-acceptance-") as folder:
        launch = Launch(
            work=Path(folder),
            rehearsal=arguments.dry_run_cpu,
            data_root=None if arguments.data_root is None else arguments.data_root.resolve(),
            ends=time.monotonic() + arguments.budget,
            train_minutes=arguments.train_minutes,
            caches=None if arguments.caches is None else arguments.caches.resolve(),
        )
        run = _Run(arguments, launch, environment)
        try:
            run.run(stages)
        finally:
            verdict, text = run.write()
            for number, handler in before.items():
                signal.signal(number, handler)
    print(f"\n{text}\n\n{run.seconds:.0f} s" + (f"; written to {run.path}" if run.path else ""))
    return 0 if verdict.green else 1


def _end_in_order(number: int, frame: object) -> None:
    """SIGTERM, from `timeout` say, or Ctrl+C: the sections end with the run, and what they have found out is written."""
    raise SystemExit(128 + number)


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_acceptance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="name the sections and stop")
    parser.add_argument("--only", action="append", default=[], metavar="SECTION", help="run this one; may be repeated")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder with CIFAR-10; default: made-up images")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the result")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for result, table and logs")
    parser.add_argument(
        "--dry-run-cpu", action="store_true", help="rehearse on the CPU at tiny sizes; measures nothing"
    )
    parser.add_argument("--commit", metavar="HASH", help="of this source, where it does not lie in a git checkout")
    parser.add_argument(
        "--budget",
        "--seconds",
        type=float,
        default=BUDGET,
        metavar="SECONDS",
        help="time limit of the whole run (%(default)s); what is optional is skipped where it does not suffice",
    )
    parser.add_argument(
        "--train-minutes",
        type=float,
        default=0.0,
        metavar="MINUTES",
        help="of the section training, per method, on the CIFAR-10 of --data-root (default: none)",
    )
    parser.add_argument(
        "--caches", type=Path, metavar="DIR", help="folder of compiled kernels, kept for the next run; default: none"
    )
    return parser.parse_args(words)


class _Run:
    """Outcomes as they come, written down after every section and every few seconds in between."""

    def __init__(self, arguments: argparse.Namespace, launch: Launch, environment: dict[str, Any]) -> None:
        self.launch = launch
        self._arguments = arguments
        self._environment = environment
        self._outcomes: list[Outcome] = []
        self._clocks: list[dict[str, Any]] = []
        self._complete = False
        self._started = self._written = time.monotonic()
        self.path = self._where()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def run(self, stages: Sequence[Sequence[Section]]) -> None:
        self._look_at_clocks("start")
        if self.launch.rehearsal:
            for outcome in run_together([section for stage in stages for section in stage], self.launch):
                self._end(outcome)
        else:
            for stage in stages:
                run_stage(stage, self.launch, on_end=self._end, while_running=self._write_now_and_then)
        self._complete = True

    def write(self) -> tuple[Verdict, str]:
        """Result, table, logs as of now; a result that is not `complete` is that of a run which is not over."""
        records = _records(self._outcomes, self.launch) if self._complete else sorted(self.launch.work.glob("*.jsonl"))
        gates, figures = read(records)
        gates += [_gate_of(outcome) for outcome in self._outcomes if outcome.skipped or not outcome.complete]
        verdict = judge(gates, figures, self._outcomes, rehearsal=self.launch.rehearsal)
        text = render(verdict, hardware=_hardware(self._environment), rehearsal=self.launch.rehearsal)
        result = {
            "kind": "gpu_acceptance",
            "complete": self._complete,
            "rehearsal": self.launch.rehearsal,
            "sections_chosen": self._arguments.only,
            "seconds": round(self.seconds, 1),
            "environment": self._environment,
            "clocks": self._clocks,
            **verdict.to_dict(),
            "details": read_details(records),
        }
        if self.path is not None:
            write_result(self.path, result)
        if self._arguments.out is not None:
            write_companions(self._arguments.out, self.launch.work, text)
        self._written = time.monotonic()
        return verdict, text

    def _end(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        _say(outcome, self.launch)
        self._look_at_clocks(f"after {outcome.section}")
        self.write()

    def _write_now_and_then(self) -> None:
        if time.monotonic() - self._written > WRITE_EVERY:
            if not self._clocks or self.seconds - self._clocks[-1]["seconds"] > CLOCKS_EVERY:
                self._look_at_clocks("in between")
            self.write()

    def _look_at_clocks(self, when: str) -> None:
        clocks = None if self.launch.rehearsal and self._clocks else read_clocks()
        if clocks is not None:
            self._clocks.append({"when": when, "seconds": round(self.seconds, 1), **clocks})

    def _where(self) -> Path | None:
        """The result's file; a rehearsal's or a partial run's only where it is asked for."""
        arguments, name = self._arguments, file_name(self._environment)
        if arguments.json is not None or arguments.out is not None:
            return arguments.json or arguments.out / name
        return None if self.launch.rehearsal or arguments.only else RESULTS / name


def _gate_of(outcome: Outcome) -> Gate:
    status: Status = "skipped" if outcome.complete else "failed"
    return Gate(name=f"section {outcome.section} ended", status=status, detail=outcome.detail)


def _records(outcomes: Sequence[Outcome], launch: Launch) -> list[Path]:
    return [launch.work / f"{name}.jsonl" for name in SECTIONS if name in {outcome.section for outcome in outcomes}]


def _say(outcome: Outcome, launch: Launch) -> None:
    """One line when a section ends; of one that did not come to its end, the last lines that it wrote."""
    gates, figures = read([launch.work / f"{outcome.section}.jsonl"])
    red = [gate for gate in gates if gate.status in ("failed", "unfinished")]
    text = f"{len(gates)} gates, {len(red)} of them not green" if red else f"{len(gates)} gates, {len(figures)} figures"
    end = f"; {outcome.detail}" if outcome.detail else ""
    print(f"{outcome.section:16} {outcome.seconds:5.0f} s  {text}{end}", flush=True)
    for gate in red:
        print(f"    {gate.status}: {gate.name}: {gate.detail[:200]}", flush=True)
    log = launch.log("rehearsal" if launch.rehearsal else outcome.section)
    if not outcome.complete and log.exists():
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]:
            print(f"    | {line}", flush=True)


def _hardware(environment: dict[str, object]) -> str:
    hardware, versions = environment["hardware"], environment["versions"]
    assert isinstance(hardware, dict) and isinstance(versions, dict)
    names = ("torch", "triton", "cuda", "cudnn", "python")
    return f"{hardware['gpu'] or hardware['cpu']}; " + ", ".join(f"{name} {versions[name]}" for name in names)


if __name__ == "__main__":
    raise SystemExit(main())
