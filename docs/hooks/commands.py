"""What the ``dat`` command accepts, asked of its own parsers: the one place where the pages and their tests look it up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dat.cli.evaluate_flags import EvaluateFlags, parse_evaluate_flags
from dat.cli.flags import take_flag
from dat.cli.main import COMMANDS
from dat.cli.profile_flags import parse_profile_flags
from dat.cli.sweep_flags import parse_options, parse_sweep_flags
from dat.cli.train_flags import parse_train_flags
from dat.evaluation import parse_attacks
from dat.methods import METHODS
from dat.recipes import RECIPES, recipe
from dat.sweep.options import SweepOptions

__all__ = [
    "COMMANDS",
    "METHODS",
    "RECIPES",
    "EvaluateFlags",
    "parse_command",
    "profile_options",
    "recipe",
    "run_options",
    "sweep_options",
]

_EXAMPLE = "digits-resnet"


def run_options() -> Any:
    """The default options of ``dat train`` that are not part of a recipe."""
    return parse_train_flags([_EXAMPLE])[1]


def profile_options() -> Any:
    """The default options of ``dat profile`` that are not part of a recipe."""
    return parse_profile_flags([_EXAMPLE])[1]


def sweep_options() -> Any:
    """The options of ``dat sweep`` where neither its file nor a flag says otherwise."""
    return SweepOptions()


def parse_command(words: Sequence[str]) -> None:
    """Parse the words after ``dat`` as the command would, and do nothing else.

    Raises:
        ValueError: the command would refuse them; ``--help`` is accepted.
    """
    if not words or words[0] not in COMMANDS:
        raise ValueError(f"no command is called {' '.join(words[:1])!r}; there are {', '.join(COMMANDS)}")
    command, *rest = words
    if command not in _PARSERS:
        raise ValueError(f"docs/hooks/commands.py does not know how to parse dat {command}; add its parser")
    try:
        _PARSERS[command](rest)
    except SystemExit as exit_:
        if exit_.code not in (0, None):
            raise ValueError(f"dat {' '.join(words)} exits with {exit_.code}") from None


def _train(words: Sequence[str]) -> None:
    """As the command, but for the run or the recipe file that a line names, which need not be there: a recipe stands for it."""
    file, rest = take_flag(words, "--config")
    resume = "--resume" in words
    if file is None and not resume:
        parse_train_flags(words)
        return
    named = bool(rest) and not rest[0].startswith("-")
    if resume and (file is not None or (not named and take_flag(rest, "--run-dir")[0] is None)):
        parse_train_flags(words)  # which says what is wrong with it
    parse_train_flags([*([] if named else [_EXAMPLE]), *(word for word in rest if word != "--resume")])


def _evaluate(words: Sequence[str]) -> None:
    parse_attacks(parse_evaluate_flags(words).attacks)


def _sweep(words: Sequence[str]) -> None:
    """As the command, but for the file that a line names, which is looked into only where it is one of the examples."""
    if not words or words[0].startswith(("-", "examples/")):
        parse_sweep_flags(words)
    else:
        parse_options(words[1:], SweepOptions())


def _no_words(words: Sequence[str]) -> None:
    if words:
        raise ValueError(f"this command takes no arguments; got {' '.join(words)}")


_PARSERS: dict[str, Callable[[Sequence[str]], object]] = {
    "train": _train,
    "profile": parse_profile_flags,
    "evaluate": _evaluate,
    "sweep": _sweep,
    "recipes": _no_words,
    "doctor": _no_words,
}
