"""Signals and time limits ask for a stop between two steps, and leave no trace afterwards."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dat_engine.run.stop import Stop, launcher, parse_duration, process_start

ROOT = Path(__file__).resolve().parents[3]


class TestParseDuration:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("9m", 540),
            ("90s", 90),
            ("1h30m", 5400),
            ("90", 90),
            ("0.5", 0.5),
            ("1.5h", 5400),
            ("2d", 172800),
            ("1d2h3m4s", 93784),
            (" 1H 30M ", 5400),
            ("1h 30 m", 5400),
        ],
    )
    def test_durations(self, text, seconds):
        assert parse_duration(text) == seconds

    @pytest.mark.parametrize(
        "text",
        [
            *(
                "",
                "m",
                "9x",
                "h9",
                "-5",
                "-5m",
                "1m1m",
                "30m1h",
                "1h30",
                "1:30",
                "nan",
                "inf",
                "1e3",
                "1.h",
                ".5h",
                "1 0m",
            ),
            *("1,5h", "٣m", "0", "0m", "0h0s", "soon", "9" * 400),
        ],
    )
    def test_nonsense(self, text):
        with pytest.raises(ValueError, match="write it like 90s, 9m"):
            parse_duration(text)


class TestSignals:
    @pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    def test_the_first_signal_only_sets_the_reason(self, number, exit_code):
        with Stop() as stop:
            assert (stop.reason, stop.exit_code) == (None, 0)
            signal.raise_signal(number)
            assert (stop.reason, stop.exit_code) == ("signal", exit_code)
            assert stop.signal_number == number

    def test_the_second_interrupt_is_immediate(self):
        with pytest.raises(KeyboardInterrupt), Stop():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    @pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
    def test_a_later_sigterm_is_immediate(self, monkeypatch, first):
        now = [100.0]
        monkeypatch.setattr("dat_engine.run.stop.time.monotonic", lambda: now[0])
        with pytest.raises(SystemExit) as ended, Stop():
            signal.raise_signal(first)
            now[0] += 2.1
            signal.raise_signal(signal.SIGTERM)
        assert ended.value.code == 143

    def test_what_a_launcher_repeats_counts_once(self, monkeypatch):
        with Stop() as stop:  # as GNU timeout does, to its child and to its group
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert stop.exit_code == 143
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "any")
        with Stop() as stop:  # Ctrl+C reaches torchrun and its workers, and torchrun passes it on
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            assert stop.exit_code == 130

    def test_a_launcher_that_is_gone_stands_for_its_sigterm(self, monkeypatch):
        parent = [os.getppid()]
        monkeypatch.setattr("dat_engine.run.stop.os.getppid", lambda: parent[0])
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "any")
        stop, alone = Stop(launcher=launcher()), Stop()
        assert stop.reason is None
        parent[0] = 1
        assert (stop.reason, stop.exit_code) == ("signal", 143)
        assert alone.reason is None
        monkeypatch.delenv("TORCHELASTIC_RUN_ID")
        assert launcher() is None  # a shell that closes is nobody's end

    @pytest.mark.parametrize("leave_by", [None, RuntimeError, KeyboardInterrupt])
    def test_handlers_come_back_however_the_context_is_left(self, leave_by):
        def mine(*_):
            pass

        before = signal.signal(signal.SIGTERM, mine), signal.getsignal(signal.SIGINT)
        try:
            try:
                with Stop():
                    assert signal.getsignal(signal.SIGTERM) is not mine
                    if leave_by is not None:
                        raise leave_by
            except (RuntimeError, KeyboardInterrupt):
                pass
            assert signal.getsignal(signal.SIGTERM) is mine
            assert signal.getsignal(signal.SIGINT) is before[1]
        finally:
            signal.signal(signal.SIGTERM, before[0])

    def test_an_ignored_interrupt_stays_ignored(self):
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with Stop() as stop:
                signal.raise_signal(signal.SIGINT)
                assert stop.reason is None
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGINT, before)

    def test_outside_the_main_thread_no_handler_is_touched_and_the_limit_works(self):
        seen = []

        def train():
            with Stop(time_limit=0.0) as stop:
                seen.append((stop.reason, signal.getsignal(signal.SIGTERM)))

        before = signal.getsignal(signal.SIGTERM)
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
        assert seen == [("time limit", before)]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_forked_child_leaves_signals_to_its_parent(self, number):
        with Stop() as stop:
            read_end, write_end = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(write_end, b".")
                try:
                    time.sleep(0.3)
                    os._exit(7)
                finally:
                    os._exit(8)
            os.read(read_end, 1)
            os.kill(child, number)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            os.close(read_end)
            os.close(write_end)
            assert stop.reason is None

    def test_a_process_finishes_its_step_and_exits_143(self):
        script = """
import sys, time
from dat_engine.run.stop import Stop
with Stop() as stop:
    print("ready", flush=True)
    while stop.reason is None:
        time.sleep(0.05)
        done = True
print("saved", stop.reason)
sys.exit(stop.exit_code)
"""
        child = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        assert child.communicate(timeout=20)[0] == "saved signal\n"
        assert child.returncode == 143


class TestTimeLimit:
    def test_counts_from_when_it_was_made(self):
        now = [100.0]
        with Stop(time_limit=30.0, clock=lambda: now[0]) as stop:
            assert (stop.reason, stop.seconds_left) == (None, 30.0)
            now[0] = 129.9
            assert stop.reason is None
            now[0] = 130.0
            assert (stop.reason, stop.seconds_left, stop.exit_code) == ("time limit", 0.0, 0)

    def test_counts_from_the_start_it_is_given(self):
        stop = Stop(time_limit=30.0, started=80.0, clock=lambda: 100.0)
        assert stop.seconds_left == 10.0

    def test_a_signal_outranks_it(self):
        with Stop(time_limit=0.0) as stop:
            assert stop.reason == "time limit"
            signal.raise_signal(signal.SIGTERM)
            assert (stop.reason, stop.exit_code) == ("signal", 143)

    def test_none_means_no_end(self):
        assert Stop().seconds_left is None

    def test_process_start_lies_before_the_imports(self):
        script = """
import time
time.sleep(0.5)
from dat_engine.run.stop import process_start
print(time.monotonic() - process_start())
"""
        answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        assert 0.5 <= float(answer.stdout) < 20
        assert process_start() < time.monotonic()
