"""The ``dat`` command. Wrong input gives one sentence on standard error and exit code 2.

Commands import what they need when they are called: torch takes seconds, and a list of recipes or a misspelt flag needs none.
"""

from __future__ import annotations

import errno
import importlib.metadata
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from dat.cli.signals import end_at_signals, quiet_signals
from dat_engine.errors import RunFailedError, UserError, did_you_mean
from dat_engine.run.parent import obey_starter
from dat_engine.spoken_warnings import spoken_as

REPORT = (
    "this is a defect of dat-engine and not of your input: please report the lines above in the issue tracker of the place "
    "you have dat-engine from, with what `dat doctor` prints"
)


def _train(arguments: Sequence[str]) -> int:
    with quiet_signals():
        obey_starter()
        from dat.cli.train_flags import parse_train_flags

        recipe, options = parse_train_flags(arguments)
        from dat.cli.train import train_by_flags

    return train_by_flags(recipe, options)


def _evaluate(arguments: Sequence[str]) -> int:
    with quiet_signals():
        from dat.cli.evaluate_flags import parse_evaluate_flags

        flags = parse_evaluate_flags(arguments)
        from dat.cli.evaluate import evaluate_trained

    return evaluate_trained(flags)


def _profile(arguments: Sequence[str]) -> int:
    with quiet_signals():
        from dat.cli.profile_flags import parse_profile_flags

        recipes, options = parse_profile_flags(arguments)
        from dat.profiling.profile import profile

    return profile(recipes, options)


def _sweep(arguments: Sequence[str]) -> int:
    with quiet_signals():
        from dat.cli.sweep_flags import parse_sweep_flags

        sweep, options = parse_sweep_flags(arguments)
        from dat.cli.sweep import sweep_by_flags

    return sweep_by_flags(sweep, options, command=shlex.join(["dat", "sweep", *arguments]))


def _recipes(arguments: Sequence[str]) -> int:
    _no_arguments("recipes", arguments)
    from dat.cli.recipe_table import print_recipes

    print_recipes()
    return 0


def _doctor(arguments: Sequence[str]) -> int:
    _no_arguments("doctor", arguments)
    from dat.cli.doctor import print_report

    return print_report()


def _no_arguments(command: str, arguments: Sequence[str]) -> None:
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"usage: dat {command}\n\n{COMMANDS[command][1]}")
        raise SystemExit(0)
    if arguments:
        raise UserError(f"dat {command} takes no arguments; got {' '.join(arguments)}")


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "train": (_train, "train and evaluate a recipe: dat train RECIPE [--method METHOD] [flags]"),
    "evaluate": (_evaluate, "accuracy of a run or checkpoint: dat evaluate RUN_OR_CHECKPOINT [--attacks …] [--json]"),
    "profile": (
        _profile,
        "cost of an epoch and of its phases, method by method: dat profile RECIPE [--methods …] [flags]",
    ),
    "sweep": (
        _sweep,
        "recipes, ablations and seeds of a file, run and compared: dat sweep FILE [--executor …] [flags]",
    ),
    "recipes": (_recipes, "list recipes and methods"),
    "doctor": (_doctor, "what this machine offers: versions, devices, kernels, optional packages"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code.

    0 done, 1 the run failed or this project has a defect (with its traceback), 2 wrong input, 130 stopped by Ctrl+C,
    143 stopped by SIGTERM.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        _print_overview()
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"dat-engine {_version()}")
        return 0
    command, *rest = words
    if command not in COMMANDS:
        near = did_you_mean(command, COMMANDS) or f"; choose one of {', '.join(COMMANDS)}"
        print(f"dat: no command is called {command!r}{near}", file=sys.stderr)
        return 2
    with spoken_as(f"dat {command}"):
        return _run(command, rest)


def program() -> NoReturn:
    """`main` as all that this process is there for; one of many ends as `dat_engine.distributed.end_process` says.

    A signal that comes when the command is done, and Python is taking itself apart, ends the process without a word.
    """
    code = main()
    end_at_signals()
    if "torch" in sys.modules and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from dat_engine.distributed import end_process

        end_process(code)
    sys.exit(code)


def _run(command: str, arguments: Sequence[str]) -> int:
    try:
        code = COMMANDS[command][0](arguments)
        if sys.stdout is not None:  # None where it was closed by the shell: >&-
            sys.stdout.flush()  # where output is buffered, a full disk behind it is noticed here and not at exit
        return code
    except SystemExit as exit_:  # after a --help
        return exit_.code if isinstance(exit_.code, int) else 0
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # under torchrun all processes fail alike; one says so
            print(f"dat {command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has left (`| head`); Python would complain again at exit
        _silence_output()
        return 141
    except Exception as error:
        if _ends_a_run(error):
            print(f"dat {command}: {error}", file=sys.stderr)
        elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:
            _silence_output()
            print(
                f"dat {command}: cannot write the output: {error.strerror}; free space where it goes", file=sys.stderr
            )
        else:
            traceback.print_exc()
            print(f"dat {command}: {REPORT}", file=sys.stderr)
        return 1
    finally:
        if "torch" in sys.modules:
            from dat_engine.distributed import leave

            leave()


def _silence_output() -> None:
    """Send what is still to be printed nowhere: Python flushes at exit, and would complain of what was said already."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _ends_a_run(error: Exception) -> bool:
    """Whether an error is no defect but the end of a run that began well: diverged, a lost process, a full disk."""
    if isinstance(error, RunFailedError) or "torch" not in sys.modules:
        return isinstance(error, RunFailedError)
    from dat_engine.distributed import ProcessesError
    from dat_engine.step.guard import NonFiniteError

    return isinstance(error, NonFiniteError | ProcessesError)


def _version() -> str:
    try:
        return importlib.metadata.version("dat-engine")
    except importlib.metadata.PackageNotFoundError:  # run out of a source tree
        return "(not installed)"


def _print_overview() -> None:
    print("dat: adversarial training in the frequency domain\n")
    for name, (_, text) in COMMANDS.items():
        print(f"  dat {name:9} {text}")
    print("\nFlags of a command: dat COMMAND --help; of a recipe: dat train RECIPE --help; version: dat --version")
