"""What a person sees of a training run: on a terminal a live bar and a table, elsewhere plain lines."""

from typing import Literal

from rich.console import Console

from dat_engine.run.display.interface import Display, EpochRow
from dat_engine.run.display.plain import PlainDisplay
from dat_engine.run.display.terminal import TerminalDisplay

__all__ = ["Display", "EpochRow", "PlainDisplay", "TerminalDisplay", "open_display"]


def open_display(
    style: Literal["auto", "terminal", "plain", "silent"] = "auto", *, console: Console | None = None
) -> Display:
    """The display of that style on `console` (default: standard output); "auto" takes what the console can show.

    A notebook gets lines, whatever is asked for: its output cells obey no cursor movements.
    """
    if style == "silent":
        return Display()
    console = console or Console()
    live = style == "terminal" or (style == "auto" and console.is_terminal and not console.is_dumb_terminal)
    return TerminalDisplay(console) if live and not console.is_jupyter else PlainDisplay(console.file)
