"""The displays show the figures they are given: live on a terminal, as plain lines elsewhere, or not at all."""

import io
import math
import re
import threading
import time

import pytest
from rich.console import Console

from dat_engine.run.display import Display, EpochRow, PlainDisplay, TerminalDisplay, open_display
from dat_engine.run.display.figures import SmoothedRates, format_count, format_duration, format_loss

TITLE = {"recipe": "cifar10-resnet18", "method": "dat", "device": "cpu", "precision": "bf16", "parameters": 11173962}
ACCURACIES = {"natural": 84.17, "PGD-20": 57.55, "AutoAttack": 51.36}


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def row(epoch=3, **changes):
    values = {
        "epoch": epoch,
        "epochs": 150,
        "loss": 2.34567,
        "robust_train_accuracy": 31.25,
        "natural_accuracy": 45.678,
        "pgd20_accuracy": 30.1,
        "lr": 0.1,
        "seconds": 8.23,
    }
    return EpochRow(**{**values, **changes})


def use_everything(display, clock):
    with display:
        display.start(TITLE, epochs=150)
        for step in range(1, 392):
            clock.now += 0.25
            display.step(3, step, 391, 2.5, 31.25, 12345.6, 3753.0 - 0.25 * step)
        display.activity("validating")
        display.epoch_end(row())
        display.epoch_end(row(4, best=True, natural_accuracy=None))
        display.note("saved [bold]step-1[/bold]")
        display.warn("two steps \x1b[31mskipped\x07")
        display.summary(ACCURACIES, title="test accuracy")


class TestPlain:
    def lines(self):
        clock, stream = Clock(), io.StringIO()
        use_everything(PlainDisplay(stream, clock=clock), clock)
        return stream.getvalue()

    def test_no_control_characters_not_even_from_what_is_shown(self):
        text = self.lines()
        assert all(char.isprintable() or char == "\n" for char in text)
        assert r"warning: two steps \x1b[31mskipped\x07" in text

    def test_a_line_every_thirty_seconds_and_one_per_epoch(self):
        lines = self.lines().splitlines()
        inside = [line for line in lines if "step " in line and line.startswith("epoch 3/150")]
        assert len(inside) == 3, "391 steps of 0.25 s make 97 s"
        assert inside[0].startswith(
            "epoch 3/150  step 120/391  loss 2.5000  robust 31.25%  12,346 images/s  1:02:03 left"
        )
        assert [line for line in lines if "done" in line] == [
            "epoch 3/150 done  loss 2.3457  robust train 31.25%  natural 45.68%  PGD-20 30.10%  lr 0.1  time 8.2 s",
            "epoch 4/150 done  loss 2.3457  robust train 31.25%  natural -  PGD-20 30.10%  lr 0.1  time 8.2 s  best",
        ]

    def test_title_notes_and_summary(self):
        lines = self.lines().splitlines()
        assert lines[0] == "recipe cifar10-resnet18  method dat  device cpu  precision bf16  parameters 11,173,962"
        assert "saved [bold]step-1[/bold]" in lines
        assert lines[-4:] == [
            "test accuracy",
            "  natural       84.17%",
            "  PGD-20        57.55%",
            "  AutoAttack    51.36%",
        ]

    def test_each_line_is_flushed(self):
        class Watched(io.StringIO):
            flushed = ""

            def flush(self):
                self.flushed = self.getvalue()

        stream = Watched()
        PlainDisplay(stream).note("here")
        assert stream.flushed == "here\n"

    def test_a_stream_that_broke_does_not_stop_the_run(self):
        class Broken(io.StringIO):
            def write(self, _):
                raise BrokenPipeError

        PlainDisplay(Broken()).note("unheard")
        closed = io.StringIO()
        closed.close()
        PlainDisplay(closed).note("unheard")

    def test_what_the_encoding_lacks_is_escaped(self):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding="ascii")
        PlainDisplay(stream).note("ε = 8/255")
        assert raw.getvalue() == b"\\u03b5 = 8/255\n"


class TestTerminal:
    def console(self, width=100):
        return Console(
            file=io.StringIO(),
            force_terminal=True,
            record=True,
            width=width,
            color_system="truecolor",
            legacy_windows=False,
        )

    def test_header_bar_rows_and_summary(self):
        console, clock = self.console(), Clock()
        use_everything(TerminalDisplay(console, clock=clock), clock)
        text = console.export_text(clear=False)
        assert "recipe cifar10-resnet18 · method dat · device cpu · precision bf16 · parameters 11,173,962" in text
        assert re.search(r"epoch 3/150 ━+ 391/391 1:0[01]:\d\d left", text)
        assert "loss 2.5000   robust 31.25%   12,346 images/s" in text
        assert "validating" in text
        head = "    epoch      loss  robust train   natural    PGD-20        lr      time"
        assert text.count(head) == 1, "the head stands once, above the first row"
        assert "    3/150    2.3457        31.25%    45.68%    30.10%       0.1     8.2 s\n" in text
        assert "    4/150    2.3457        31.25%         -    30.10%       0.1     8.2 s ★\n" in text
        assert "saved [bold]step-1[/bold]" in text, "brackets are text, not markup"
        assert r"warning: two steps \x1b[31mskipped\x07" in text
        for name, accuracy in ACCURACIES.items():
            assert re.search(rf"│ {re.escape(name)} +│ {accuracy:.2f}% │", text)

    def test_the_terminal_is_left_as_it_was(self):
        console, clock = self.console(), Clock()
        display = TerminalDisplay(console, clock=clock)
        with pytest.raises(KeyboardInterrupt), display:
            display.step(1, 1, 10, 1.0, 0.0, 1.0, 1.0)
            raise KeyboardInterrupt
        sent = console.file.getvalue()
        assert sent.count("\x1b[?25l") == sent.count("\x1b[?25h") == 1, "cursor hidden once, shown once"
        display.close()
        assert console.file.getvalue() == sent

    def test_no_thread_draws(self):
        console = self.console()
        before = threading.active_count()
        with TerminalDisplay(console) as display:
            display.step(1, 1, 10, 1.0, 0.0, 1.0, 1.0)
            assert threading.active_count() == before
            sent = console.file.getvalue()
            time.sleep(0.3)
            assert console.file.getvalue() == sent

    def test_draws_at_most_ten_times_a_second_and_always_the_last_step(self):
        console, clock = self.console(), Clock()
        display = TerminalDisplay(console, clock=clock)
        for step in range(1, 1001):
            clock.now += 0.001
            display.step(1, step, 1000, 1.0, 0.0, 1000.0, 1.0)
        display.close()
        drawn = [int(step) for step in re.findall(r"(\d+)/1000", console.export_text())]
        assert len(set(drawn)) <= 12
        assert drawn[-1] == 1000

    @pytest.mark.parametrize("width", [20, 40, 60, 79, 80])
    def test_narrow_terminals_get_rows_of_one_line(self, width):
        console = self.console(width)
        display = TerminalDisplay(console)
        display.step(3, 1, 391, 2.5, None, math.nan, None)
        display.close()
        console.export_text()
        for epoch in (1, 2, 3):
            display.epoch_end(row(epoch))
        lines = console.export_text().splitlines()
        assert len(lines) == 5
        assert max(map(len, lines)) <= width

    def test_a_terminal_that_went_away_does_not_stop_the_run(self):
        class Gone(io.StringIO):
            def write(self, _):
                raise OSError(5, "Input/output error")

        clock = Clock()
        console = Console(file=Gone(), force_terminal=True, width=80)
        use_everything(TerminalDisplay(console, clock=clock), clock)

    def test_ascii_terminals_get_an_asterisk(self):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding="ascii")
        console = Console(file=stream, force_terminal=True, width=100, color_system=None)
        clock = Clock()
        use_everything(TerminalDisplay(console, clock=clock), clock)
        TerminalDisplay(console).note("ε = 8/255")
        stream.flush()
        text = raw.getvalue().decode("ascii")
        assert "recipe cifar10-resnet18, method dat" in text
        assert "8.2 s *\n" in text
        assert "AutoAttack | 51.36%" in text
        assert "\\u03b5 = 8/255" in text


class TestChoice:
    def test_by_what_the_console_can_show(self, monkeypatch):
        monkeypatch.delenv("TERM", raising=False)
        for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            monkeypatch.delenv(name, raising=False)
        terminal = Console(file=io.StringIO(), force_terminal=True)
        pipe = Console(file=io.StringIO())
        assert type(open_display(console=terminal)) is TerminalDisplay
        assert type(open_display(console=pipe)) is PlainDisplay
        assert type(open_display("plain", console=terminal)) is PlainDisplay
        assert type(open_display("terminal", console=pipe)) is TerminalDisplay
        monkeypatch.setenv("TERM", "dumb")
        assert type(open_display(console=Console(file=io.StringIO(), force_terminal=True))) is PlainDisplay

    @pytest.mark.parametrize("style", ["auto", "terminal", "plain"])
    def test_a_notebook_gets_lines(self, style):
        console = Console(file=io.StringIO(), force_jupyter=True, force_terminal=True)
        display = open_display(style, console=console)
        assert type(display) is PlainDisplay
        use_everything(display, Clock())
        text = console.file.getvalue()
        assert "epoch 3/150 done" in text
        assert all(char.isprintable() or char == "\n" for char in text)

    @pytest.mark.parametrize("style", ["auto", "terminal", "plain"])
    @pytest.mark.parametrize("output", ["missing", "closed"])
    def test_a_process_without_standard_output_runs_on(self, monkeypatch, style, output):
        stream = None
        if output == "closed":
            stream = io.StringIO()
            stream.close()
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", stream)
            use_everything(open_display(style), Clock())
            use_everything(PlainDisplay(), Clock())

    def test_silent_shows_nothing(self, capsys):
        display = open_display("silent", console=Console())
        assert type(display) is Display
        use_everything(display, Clock())
        assert capsys.readouterr() == ("", "")


class TestFigures:
    def test_rates_are_smoothed_over_about_ten_seconds(self):
        clock = Clock()
        rates = SmoothedRates(clock)
        assert (rates.images_per_second, rates.seconds_left) == (None, None)
        rates.add(1000.0, 600.0)
        assert (rates.images_per_second, rates.seconds_left) == (1000.0, 600.0)
        clock.now += 1
        rates.add(2000.0, 299.0)
        assert rates.images_per_second == pytest.approx(1000 + 1000 * (1 - math.exp(-0.1)))
        assert rates.seconds_left == pytest.approx(599 - 300 * (1 - math.exp(-0.1)))
        clock.now += 100
        rates.add(2000.0, 200.0)
        assert rates.images_per_second == pytest.approx(2000, rel=1e-3)
        rates.add(math.nan, math.inf)
        assert rates.images_per_second == pytest.approx(2000, rel=1e-3)

    def test_time_left_runs_down_between_reports(self):
        clock = Clock()
        rates = SmoothedRates(clock)
        rates.add(1.0, 60.0)
        clock.now += 45
        assert rates.seconds_left == 15
        clock.now += 45
        assert rates.seconds_left == 0

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0, "0.0 s"),
            (8.23, "8.2 s"),
            (9.96, "10 s"),
            (59.4, "59 s"),
            (59.6, "1:00"),
            (754, "12:34"),
            (3599.7, "1:00:00"),
            (3723, "1:02:03"),
            (183845, "2d 03:04:05"),
            (None, "-"),
            (math.inf, "-"),
            (math.nan, "-"),
        ],
    )
    def test_durations(self, seconds, text):
        assert format_duration(seconds) == text

    def test_counts_and_losses_keep_to_their_columns(self):
        assert [format_count(value) for value in (None, 3.14159, 99.97, 12345.6)] == ["-", "3.1", "100", "12,346"]
        assert [format_loss(value) for value in (2.34567, 123456.0, -1e9, math.nan)] == [
            "2.3457",
            "1.23e+05",
            "-1e+09",
            "nan",
        ]
