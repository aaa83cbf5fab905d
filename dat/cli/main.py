"""The ``dat`` command. Wrong input gives one sentence on standard error and exit code 2."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dat.cli.doctor import examine
from dat.cli.flags import parse_flags
from dat.cli.profile_flags import USAGE as PROFILE_USAGE
from dat.cli.profile_flags import parse_profile_flags
from dat.cli.train_flags import USAGE, parse_train_flags
from dat.evaluation.evaluate import evaluate, parse_attacks
from dat.methods import METHODS
from dat.profiling.profile import profile
from dat.recipes import RECIPES, recipe
from dat.training.build import choose_device, load_test_data
from dat.training.train import RunFailedError, titled, train
from dat.training.trained import load_trained
from dat_engine.distributed import ProcessesError, leave
from dat_engine.run.display import open_display
from dat_engine.step.guard import NonFiniteError


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateFlags:
    """Accuracy of a trained classifier on its test split."""

    source: Annotated[Path, tyro.conf.Positional]
    """Run directory, or one of its checkpoint files."""
    attacks: str = "natural,fgsm,pgd20,pgd100,cw"
    """Comma-separated, out of natural, fgsm, pgd20, pgd100, cw, aa (AutoAttack standard)."""
    epsilon: float | None = None
    """L-infinity radius; None: the recipe's."""
    limit: int | None = None
    """Number of test images, classes balanced; None: all."""
    batch_size: int = 256
    seed: int = 0
    data_root: Path = Path("data")
    """Folder that holds the data set."""
    device: str | None = None
    """cpu, cuda or cuda:N; None: the GPU where there is one."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON instead of a table."""


def _train(arguments: Sequence[str]) -> int:
    return train(*parse_train_flags(arguments))


def _evaluate(arguments: Sequence[str]) -> int:
    if not arguments:
        raise ValueError("name what to evaluate: dat evaluate RUN_OR_CHECKPOINT [flags]")
    flags = parse_flags(EvaluateFlags, arguments, command="dat evaluate")
    attacks = parse_attacks(flags.attacks)
    for name, value in (("limit", flags.limit), ("batch_size", flags.batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    if not 0 <= flags.seed < 2**63:
        raise ValueError(f"seed must be a non-negative 63-bit number; got {flags.seed}")
    device = choose_device(flags.device)
    trained = load_trained(flags.source, device)
    epsilon = trained.recipe.epsilon if flags.epsilon is None else flags.epsilon
    if not 0 < epsilon <= 1:
        raise ValueError(f"epsilon must lie in (0, 1], images being in [0, 1]; got {epsilon:g}")
    data = load_test_data(trained.recipe, flags.data_root, flags.limit)
    if data.class_names != trained.class_names:
        raise ValueError(
            f"{trained.path} was trained on other classes ({len(trained.class_names)}) than {flags.data_root} holds "
            f"({data.num_classes}) of {trained.recipe.data.name}"
        )
    with open_display("silent" if flags.json else "auto") as display:
        results = evaluate(
            trained.model,
            data,
            attacks,
            epsilon=epsilon,
            batch_size=flags.batch_size,
            seed=flags.seed,
            on_progress=lambda attack, done: display.activity(f"evaluating {attack}: {done} of {len(data)} images"),
        )
        title = f"{trained.recipe.name} {trained.recipe.method}, {len(data)} test images, epsilon {epsilon:.4g}"
        display.summary(titled(results), title=title)
    if flags.json:
        accuracy = {
            result.attack: {"percent": result.percent, "standard_error": result.standard_error} for result in results
        }
        print(
            json.dumps(
                {
                    "checkpoint": str(trained.path),
                    "recipe": trained.recipe.name,
                    "method": trained.recipe.method,
                    "epsilon": epsilon,
                    "images": len(data),
                    "accuracy": accuracy,
                }
            )
        )
    return 0


def _profile(arguments: Sequence[str]) -> int:
    return profile(*parse_profile_flags(arguments))


def _recipes(arguments: Sequence[str]) -> int:
    _no_arguments("recipes", arguments)
    table = Table("recipe", "data", "model", "batch", "epochs (dat)", "epsilon")
    for name in RECIPES:
        values = recipe(name)
        table.add_row(
            name,
            values.data.name,
            values.model.name,
            str(values.batch_size),
            str(values.epochs),
            f"{values.epsilon:.4g}",
        )
    console = Console()
    console.print(table)
    console.print("Methods, each for every recipe (--method):")
    for name, entry in METHODS.items():
        console.print(f"  [bold]{name:8}[/bold] {entry.summary}", highlight=False, soft_wrap=True)
    return 0


def _doctor(arguments: Sequence[str]) -> int:
    _no_arguments("doctor", arguments)
    findings = examine()
    console = Console()
    for finding in findings:
        mark = "[green]ok[/green]  " if finding.good else "[yellow]note[/yellow]"
        text = f"{mark}  [bold]{finding.subject:14}[/bold] {escape(finding.text)}"
        console.print(text, highlight=False, soft_wrap=True)
    return 0 if all(finding.good or not finding.required for finding in findings) else 1


def _no_arguments(command: str, arguments: Sequence[str]) -> None:
    if arguments and arguments[0] not in ("-h", "--help"):
        raise ValueError(f"dat {command} takes no arguments; got {' '.join(arguments)}")


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "train": (_train, f"train and evaluate a recipe: {USAGE}"),
    "evaluate": (_evaluate, "accuracy of a run or checkpoint: dat evaluate RUN_OR_CHECKPOINT [--attacks …] [--json]"),
    "profile": (_profile, f"cost of an epoch and of its phases, method by method: {PROFILE_USAGE}"),
    "recipes": (_recipes, "list recipes and methods"),
    "doctor": (_doctor, "what this machine offers: versions, devices, kernels, optional packages"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 training failed, 2 wrong input, 143 stopped by a signal."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        _print_overview()
        return 0 if words else 2
    command, *rest = words
    if command not in COMMANDS:
        print(f"dat: no command is called {command!r}; choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return COMMANDS[command][0](rest)
    except ValueError as error:
        if os.environ.get("RANK", "0") == "0":  # under torchrun all processes fail alike; one says so
            print(f"dat {command}: {error}", file=sys.stderr)
        return 2
    except (NonFiniteError, ProcessesError, RunFailedError) as error:
        print(f"dat {command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has left (`| head`); Python would complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    finally:
        leave()


def _print_overview() -> None:
    print("dat: adversarial training in the frequency domain\n")
    for name, (_, text) in COMMANDS.items():
        print(f"  dat {name:9} {text}")
    print("\nFlags of a command: dat COMMAND --help; of a recipe: dat train RECIPE --help")
