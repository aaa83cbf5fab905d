"""`python -m bench.gpu_acceptance`: all GPU correctness gates and all GPU targets in one run of under 8 minutes.

Works offline and makes its own images. Exit code 0: every gate is green; 1: one is not, or a section did not come to its end;
2: wrong input. Whether the targets are met is said in the table and does not change the exit code.

    python -m bench.gpu_acceptance                              # writes bench/results/gpu_<name>_<date>.json
    python -m bench.gpu_acceptance --out $OUT                   # everything into one folder, logs too
    python -m bench.gpu_acceptance --only graph_gates --only data_gates
    python -m bench.gpu_acceptance --dry-run-cpu                # every section's code on the CPU, without times
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.gpu_acceptance.launch import ROOT, Launch, Outcome, run_stage, run_together
from bench.gpu_acceptance.records import Gate, read
from bench.gpu_acceptance.sections import SECTIONS, Section, chosen
from bench.gpu_acceptance.table import render
from bench.gpu_acceptance.verdict import Verdict, judge
from dat_engine.run.environment import describe_environment

RESULTS = ROOT / "bench" / "results"
SECONDS = 465.0
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
    started = time.monotonic()
    environment = describe_environment()
    if arguments.commit:
        environment["git_commit"] = arguments.commit
    with tempfile.TemporaryDirectory(prefix="gpu-acceptance-") as folder:
        launch = Launch(
            work=Path(folder),
            rehearsal=arguments.dry_run_cpu,
            data_root=None if arguments.data_root is None else arguments.data_root.resolve(),
            ends=started + arguments.seconds,
        )
        verdict = _run(stages, launch)
        text = render(verdict, hardware=_hardware(environment), rehearsal=launch.rehearsal)
        result = {
            "kind": "gpu_acceptance",
            "rehearsal": launch.rehearsal,
            "sections_chosen": arguments.only,
            "seconds": round(time.monotonic() - started, 1),
            "environment": environment,
            **verdict.to_dict(),
        }
        path = _write(result, text, arguments, launch)
    print(f"\n{text}\n\n{time.monotonic() - started:.0f} s" + (f"; written to {path}" if path else ""))
    return 0 if verdict.green else 1


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
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time limit of the whole run (%(default)s)")
    return parser.parse_args(words)


def _run(stages: Sequence[Sequence[Section]], launch: Launch) -> Verdict:
    outcomes: list[Outcome] = []
    if launch.rehearsal:
        outcomes = run_together([section for stage in stages for section in stage], launch)
        for outcome in outcomes:
            _say(outcome, launch)
    else:
        for stage in stages:
            outcomes += run_stage(stage, launch, on_end=lambda outcome: _say(outcome, launch))
    gates, figures = read(_records(outcomes, launch))
    gates += [
        Gate(name=f"section {outcome.section} ended", status="failed", detail=outcome.detail)
        for outcome in outcomes
        if not outcome.complete
    ]
    return judge(gates, figures, outcomes, rehearsal=launch.rehearsal)


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


def _write(result: dict[str, object], text: str, arguments: argparse.Namespace, launch: Launch) -> Path | None:
    """The result as JSON (a rehearsal's only where it is asked for); with --out the table and all logs beside it."""
    environment = result["environment"]
    assert isinstance(environment, dict)
    gpu = environment["hardware"]["gpu"] or "cpu"
    name = f"gpu_{re.sub('[^a-z0-9]+', '-', gpu.lower()).strip('-')}_{environment['date'][:10]}.json"
    path: Path | None = arguments.json
    if path is None and arguments.out is not None:
        path = arguments.out / name
    if path is None and not launch.rehearsal and not arguments.only:
        path = RESULTS / name
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "table.txt").write_text(text + "\n", encoding="utf-8")
        logs = [
            f"== {log.stem}\n{log.read_text(encoding='utf-8', errors='replace')}" for log in launch.work.glob("*.log")
        ]
        (arguments.out / "sections.log").write_text("\n".join(logs), encoding="utf-8")
    return path


if __name__ == "__main__":
    raise SystemExit(main())
