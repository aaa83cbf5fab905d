"""Writes the newest GPU acceptance result into README.md, between two markers.

python -m bench.results_table            # rewrite the table
python -m bench.results_table --check    # exit code 1 where README.md does not show the newest result
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README, RESULTS = ROOT / "README.md", ROOT / "bench" / "results"
BEGIN, END = "<!-- gpu results: begin (python -m bench.results_table) -->", "<!-- gpu results: end -->"
NOT_MEASURED = "Not yet measured on a GPU: `python -m bench.gpu_acceptance` does it in one run of under 8 minutes."
ALSO_SHOWN = ("peak memory: ", "operations per second in DAT steps", "share of the matrix-product rate", "epoch: ")
"""Beginnings of the names of the figures that are shown besides the targets."""


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.results_table", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit code 1 where the table is not the newest"
    )
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args(words)
    before = arguments.readme.read_text(encoding="utf-8")
    try:
        after = with_table(before, render(newest(arguments.results)))
    except ValueError as error:
        print(f"results_table: {arguments.readme}: {error}", file=sys.stderr)
        return 2
    if arguments.check:
        if after != before:
            print(
                "results_table: the table in README.md is not that of the newest result; run python -m bench.results_table"
            )
        return int(after != before)
    arguments.readme.write_text(after, encoding="utf-8")
    return 0


def newest(folder: Path) -> Mapping[str, Any] | None:
    """The latest complete acceptance result in `folder`, by its own date; rehearsals and parts of runs do not count."""
    found = []
    for path in folder.glob("*.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        if (
            isinstance(result, dict)
            and result.get("kind") == "gpu_acceptance"
            and not result["rehearsal"]
            and result.get("complete", True)  # results of before this field were written at the end only
            and not result["sections_chosen"]
        ):
            found.append((result["environment"]["date"], {**result, "file": path.name}))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def render(result: Mapping[str, Any] | None) -> str:
    """Markdown: where and with what, the targets, some more figures, what is not green."""
    if result is None:
        return NOT_MEASURED
    environment = result["environment"]
    versions, commit = environment["versions"], environment["git_commit"]
    lines = [
        f"{environment['hardware']['gpu']}, torch {versions['torch']}, Triton {versions['triton']}, {environment['date'][:10]}"
        + (f", commit {commit[:10]}" if commit else "")
        + f": `python -m bench.gpu_acceptance`, [bench/results/{result['file']}](bench/results/{result['file']}).",
        "",
        "| | measured | target | |",
        "|---|---|---|---|",
    ]
    for target in result["targets"]:
        measured = _value(target) if target["value"] is not None else target["state"]
        state = target["state"] if target["value"] is not None else target["note"]
        lines.append(f"| {target['figure']} | {measured} | {target['sense']} {target['bound']:g} | {state} |")
    named = {target["figure"] for target in result["targets"]}
    for figure in result["figures"]:
        if figure["name"].startswith(ALSO_SHOWN) and figure["name"] not in named:
            lines.append(f"| {figure['name']} | {_value(figure)} | | |")
    gates = result["gates"]
    red = [gate for gate in gates if gate["status"] in ("failed", "unfinished")]
    lines += ["", f"{sum(gate['status'] == 'passed' for gate in gates)} correctness gates passed, {len(red)} did not."]
    lines += [f"- {gate['status']}: {gate['name']}: {gate['detail']}" for gate in red]
    lines += ["", "Epochs are extrapolated from the timed steps; data and augmentation are in them, validation is not."]
    return "\n".join(lines)


def with_table(text: str, table: str) -> str:
    """`text` with `table` between the markers.

    Raises:
        ValueError: the markers are not there, or not once and in order.
    """
    begin, end = text.find(BEGIN), text.find(END)
    if begin < 0 or end < begin or text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"needs the lines {BEGIN} and {END}, once and in this order")
    return text[: begin + len(BEGIN)] + f"\n{table}\n" + text[end:]


def _value(entry: Mapping[str, Any]) -> str:
    return f"{entry['value']:.3g} {entry['unit']}" if entry["value"] < 1000 else f"{entry['value']:.0f} {entry['unit']}"


if __name__ == "__main__":
    raise SystemExit(main())
