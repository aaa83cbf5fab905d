"""Disks that fill up, directories that go, processes that are killed: one sentence, and whole checkpoints."""

import contextlib
import errno
import os
import resource
import shutil
import subprocess

import pytest
import torch

from dat_engine.errors import RunFailedError
from dat_engine.run.checkpoint import CheckpointError
from dat_engine.run.checkpoint_writer import CheckpointWriter
from dat_engine.run.interval import EPOCHS_ONLY, Interval
from dat_engine.run.run_directory import RunDirectory
from dat_engine.run.stop import Stop
from dat_engine.step.guard import NonFiniteError
from tests.engine.run.tiny_training import STEPS_PER_EPOCH, StopAfter, rows, trainer, weights


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the trainer catches it on purpose."""


def train(ran, stop=None):
    with stop or Stop() as stopping:
        return ran.train(stopping)


@contextlib.contextmanager
def small_disk(path, size, inodes=1000):
    """A file system of its own, where this user may mount one."""
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes}", "none", str(path)], capture_output=True
    )
    if done.returncode:
        pytest.skip("this user may not mount a small file system")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def whole_checkpoints(path) -> list[int]:
    """Steps of the checkpoints in a run directory, every one of which is read and verified."""
    from dat_engine.run.checkpoint import load

    with RunDirectory.resume(path) as run:
        return [load(file)["position"]["step"] for file in run.checkpoints.step_paths()]


class TestDisk:
    def test_a_disk_that_fills_up(self, tmp_path):
        with small_disk(tmp_path / "disk", "300k") as disk:
            with RunDirectory.create(disk / "run", {}) as run:
                ran = trainer(run, epochs=1)
                assert train(ran) == "finished"
                (disk / "ballast").write_bytes(b"x" * 1024)
                with contextlib.suppress(OSError), (disk / "ballast").open("ab", buffering=0) as file:
                    while True:
                        file.write(b"x" * 4096)
                ran = trainer(run, epochs=9)
                with pytest.raises((CheckpointError, RunFailedError), match=r"No space left|no space left"):
                    train(ran)
                with pytest.raises(RunFailedError, match=r"summary\.json: No space left"):
                    run.write_summary({"x": "y" * 100_000})
            (disk / "ballast").unlink()
            assert whole_checkpoints(disk / "run")[-1] == STEPS_PER_EPOCH

    def test_a_disk_without_inodes(self, tmp_path):
        with small_disk(tmp_path / "disk", "4m", inodes=60) as disk:
            with RunDirectory.create(disk / "run", {}) as run:
                assert train(trainer(run, epochs=1)) == "finished"
                with contextlib.suppress(OSError):
                    for index in range(1000):
                        (disk / f"{index}").touch()
                with pytest.raises(CheckpointError, match=r"no space left on the disk, or no file names"):
                    train(trainer(run, epochs=9))
            (disk / "0").unlink()
            (disk / "1").unlink()
            assert whole_checkpoints(disk / "run") == [STEPS_PER_EPOCH]

    def test_a_disk_that_becomes_read_only(self, tmp_path):
        with small_disk(tmp_path / "disk", "4m") as disk, RunDirectory.create(disk / "run", {}) as run:
            train(trainer(run, epochs=1))
            run.close()
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            with pytest.raises((CheckpointError, RunFailedError), match="Read-only file system"):
                train(trainer(run, epochs=9))
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
            assert whole_checkpoints(disk / "run") == [STEPS_PER_EPOCH]

    def test_tensorboard_alone_cannot_write(self, tmp_path, monkeypatch):
        with RunDirectory.create(tmp_path / "run", {}) as run:
            ran = trainer(run, epochs=9)

            def full(*_):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            monkeypatch.setattr(run.tensorboard(), "add_scalar", full)
            monkeypatch.setattr(run.tensorboard(), "close", full)
            with pytest.raises(
                RunFailedError, match=r"cannot write TensorBoard's events to .*: No space left on device; the"
            ):
                train(ran)
            with pytest.warns(RuntimeWarning, match="the last of TensorBoard's events could not be written"):
                run.close()

    def test_a_file_size_limit(self, tmp_path):
        with RunDirectory.create(tmp_path / "run", {}) as run:
            train(trainer(run, epochs=1))
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
            try:
                with pytest.raises(CheckpointError, match="File too large; the older checkpoints are whole"):
                    train(trainer(run, epochs=2, width=32))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert whole_checkpoints(tmp_path / "run") == [STEPS_PER_EPOCH]

    @pytest.mark.filterwarnings("ignore:the last of TensorBoard")
    def test_a_directory_that_is_removed_does_not_come_back_in_part(self, tmp_path):
        with RunDirectory.create(tmp_path / "run", {}) as run:
            ran = trainer(run, epochs=9, validate=lambda model: shutil.rmtree(tmp_path / "run") or {})
            with pytest.raises(
                (CheckpointError, RunFailedError), match=r"removed while the run wrote into it|No such file"
            ):
                train(ran)
        assert not (tmp_path / "run").exists()

    def test_a_folder_of_checkpoints_that_is_a_link_is_not_written_through(self, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        with RunDirectory.create(tmp_path / "run", {}) as run:
            (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "elsewhere")
            with pytest.raises(CheckpointError, match="checkpoints is a symbolic link"):
                train(trainer(run))
        assert not list((tmp_path / "elsewhere").iterdir())


class TestFigures:
    def test_the_row_of_an_epoch_is_there_once(self, tmp_path):
        """Stopped at the last step of an epoch, resumed, killed between the epoch's row and its checkpoint, resumed."""
        with RunDirectory.create(tmp_path / "run", {}) as run:
            train(trainer(run), StopAfter(STEPS_PER_EPOCH))
        with RunDirectory.resume(tmp_path / "run") as run:
            ran = trainer(run)
            ran.resume()
            ran._save = lambda **_: (_ for _ in ()).throw(Killed)
            with pytest.raises(Killed):
                train(ran)
            assert [row["epoch"] for row in rows(run) if "epoch_loss" in row] == [1]
        with RunDirectory.resume(tmp_path / "run") as run:
            ran = trainer(run)
            ran.resume()
            train(ran)
            assert [row["epoch"] for row in rows(run) if "epoch_loss" in row] == [1, 2, 3]

    def test_a_step_limit_that_is_raised_leaves_the_rows_of_a_run_that_had_none(self, tmp_path):
        with RunDirectory.create(tmp_path / "whole", {}) as run:
            train(trainer(run))
            expected = rows(run)
        with RunDirectory.create(tmp_path / "run", {}) as run:
            assert train(trainer(run, max_steps=7)) == "step limit"
            assert [row["step"] for row in rows(run)] == [2, 4, 5, 6, 7]
        with RunDirectory.resume(tmp_path / "run") as run:
            ran = trainer(run)
            ran.resume()
            train(ran)
            found = rows(run)
        timed = {"seconds", "images_per_second"}
        assert [{key: row[key] for key in row if key not in timed} for row in found] == [
            {key: row[key] for key in row if key not in timed} for row in expected
        ]

    def test_what_a_killed_writer_left_is_swept(self, tmp_path):
        with RunDirectory.create(tmp_path / "run", {}) as run:
            train(trainer(run, epochs=1))
        leftover = tmp_path / "run" / ".metrics.jsonl.0badcafe.partial"
        leftover.touch()
        RunDirectory.open(tmp_path / "run")
        assert leftover.exists(), "who only looks deletes nothing"
        with RunDirectory.resume(tmp_path / "run"):
            assert not leftover.exists()


class TestBeginningAgain:
    def test_only_a_run_without_a_trained_step_may(self, tmp_path):
        with RunDirectory.create(tmp_path / "run", {}) as run:
            assert run.why_it_cannot_begin_again() is None
            run.metrics.append({"step": 10, "loss": 1.0})
            assert run.why_it_cannot_begin_again() == "its metrics.jsonl goes to step 10"
            run.write_summary({})
            assert run.why_it_cannot_begin_again() == "it has summary.json"


class TestWriter:
    def test_four_kills_within_one_epoch_make_progress(self, tmp_path):
        with RunDirectory.create(tmp_path / "run", {}) as run:
            plan = {"epochs": 3, "checkpoints": Interval(steps=1)}
            reached = []
            for _ in range(4):
                ran = trainer(run, **plan)
                if run.checkpoints.step_paths():
                    ran.resume()
                execute, left = ran.execute, [2]

                def dies(batch, execute=execute, left=left):
                    left[0] -= 1
                    if left[0] < 0:
                        raise Killed
                    return execute(batch)

                ran.execute = dies
                with pytest.raises(Killed):
                    train(ran)
                reached.append(run.checkpoints.load_newest()[0]["position"]["step"])
        assert reached == sorted(set(reached)) and reached[-1] >= STEPS_PER_EPOCH - 1

    def test_what_is_written_within_an_epoch_goes_on_bit_for_bit(self, tmp_path):
        with RunDirectory.create(tmp_path / "whole", {}) as run:
            whole = trainer(run)
            train(whole)
        with RunDirectory.create(tmp_path / "run", {}) as run:
            ran = trainer(run, checkpoints=Interval(steps=3))
            ran._finish_epoch = lambda: (_ for _ in ()).throw(Killed)
            with pytest.raises(Killed):
                train(ran)
            state, _ = run.checkpoints.load_newest()
            assert state["position"]["step"] == 3 and state["position"]["step_in_epoch"] == 3
        with RunDirectory.resume(tmp_path / "run") as run:
            ran = trainer(run)
            ran.resume()
            train(ran)
        assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(ran).items())

    def test_the_state_on_disk_is_that_of_its_step_though_training_goes_on(self, tmp_path, monkeypatch):
        """The thread waits until two more steps have changed every weight."""
        import threading

        from dat_engine.run import checkpoint_writer

        gone_on = threading.Event()
        real = checkpoint_writer.Snapshot.on_host
        monkeypatch.setattr(checkpoint_writer.Snapshot, "on_host", lambda self: gone_on.wait(30) and real(self))
        seen = {}
        with RunDirectory.create(tmp_path / "run", {}) as run:
            ran = trainer(run, epochs=1, checkpoints=Interval(steps=2))
            execute = ran.execute

            def watched(batch):
                if ran._position.step == 2:
                    seen.update(weights(ran))
                if ran._position.step == 4:
                    gone_on.set()
                return execute(batch)

            ran.execute = watched
            with Stop() as stop:
                ran.train(stop)
            saved = run.checkpoints.step_paths()[-1]
            from dat_engine.run.checkpoint import load

            state = load(saved)
        assert state["position"]["step"] == 2
        assert all(torch.equal(value, seen[name]) for name, value in state["training"]["model"].items())
        assert not torch.equal(seen["0.weight"], weights(ran)["0.weight"])

    def test_an_error_of_the_thread_is_raised_between_steps(self, tmp_path, monkeypatch):
        with RunDirectory.create(tmp_path / "run", {}) as run:
            ran = trainer(run, epochs=10_000, checkpoints=Interval(steps=2))

            def full(*_, **__):
                raise CheckpointError("no space left on the disk")

            monkeypatch.setattr(run.checkpoints, "save", full)
            with pytest.raises(CheckpointError, match="no space left"):
                train(ran)
            assert 2 < ran._position.step <= 2 * STEPS_PER_EPOCH

    def test_training_returns_when_the_last_one_is_written(self, tmp_path, monkeypatch):
        import time

        with RunDirectory.create(tmp_path / "run", {}) as run:
            real = run.checkpoints.save
            monkeypatch.setattr(run.checkpoints, "save", lambda *a, **k: (time.sleep(0.3), real(*a, **k)))
            train(trainer(run, epochs=1))
            assert run.checkpoints.load_newest()[0]["position"]["step"] == STEPS_PER_EPOCH

    def test_a_duration_is_due_when_it_has_passed(self, tmp_path):
        now = [0.0]
        with RunDirectory.create(tmp_path / "run", {}) as run:
            writer = CheckpointWriter(run.checkpoints, Interval(seconds=600.0), clock=lambda: now[0])
            assert not writer.is_due(5)
            now[0] = 600.0
            assert writer.is_due(5)
            writer.save({"model": torch.zeros(2)}, step=5, epoch=0)
            writer.wait()
            assert not writer.is_due(6)
            assert not CheckpointWriter(run.checkpoints, EPOCHS_ONLY, clock=lambda: now[0]).is_due(10**9)


class TestNonFiniteSteps:
    def test_leave_what_the_last_good_step_left(self, tmp_path):
        with RunDirectory.create(tmp_path / "run", {}) as run:
            ran = trainer(run, epochs=20, bad_from=8, checkpoints=Interval(steps=1))
            before = {}
            execute = ran.execute

            def watched(batch):
                if ran._position.step == 7:
                    before.update(weights(ran))
                return execute(batch)

            ran.execute = watched
            with pytest.raises(NonFiniteError):
                train(ran)
            state, _ = run.checkpoints.load_newest()
            assert rows(run)[-1]["ending"] == "non-finite"
        saved = state["training"]["model"]
        assert all(torch.equal(saved[name], value) for name, value in before.items() if "num_batches" not in name)
        assert state["training"]["guard"]["consecutive"] == 0
        with RunDirectory.resume(tmp_path / "run") as run:
            ran = trainer(run, epochs=7)
            ran.resume()
            assert train(ran) == "finished"
            assert "ending" not in rows(run)[-1]

    def test_no_checkpoint_is_written_in_passing_while_they_last(self, tmp_path):
        with RunDirectory.create(tmp_path / "run", {}) as run:
            writer = CheckpointWriter(run.checkpoints, EPOCHS_ONLY)
            for step, bad in ((1, 0), (2, 3)):
                state = {"training": {"guard": {"consecutive": torch.tensor(bad)}}}
                writer.save(state, step=step, epoch=0, passing=True)
                writer.wait()
            assert [path.name for path in run.checkpoints.step_paths()] == ["step-00000001.safetensors"]
