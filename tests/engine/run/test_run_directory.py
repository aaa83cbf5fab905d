"""A run directory tells what was run, refuses to be shared or overwritten, and picks up after a crash."""

import errno
import fcntl
import json
import math
import os
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

import dat_engine.run.durable_file
from dat_engine.errors import RunFailedError, UserError
from dat_engine.run.environment import _source_commit, describe_environment
from dat_engine.run.lock import RunLock
from dat_engine.run.metrics import MetricsLog
from dat_engine.run.run_directory import RunDirectory

ROOT = Path(__file__).resolve().parents[3]
RECIPE = {"name": "cifar10-resnet18", "model": {"width": 64}, "betas": [15.0, 2.0], "limit": None}


def tree(path):
    return sorted(str(each.relative_to(path)) for each in path.rglob("*"))


class TestCreate:
    def test_config_holds_recipe_versions_commit_and_hardware(self, tmp_path):
        with RunDirectory.create(tmp_path / "runs" / "a", RECIPE) as run:
            text = (run.path / "config.json").read_text()
        document = json.loads(text)
        assert document["recipe"] == RECIPE
        assert '\n  "recipe": {' in text, "indented, for people"
        assert document["versions"]["torch"] == torch.__version__
        assert {"python", "torchvision", "triton", "dat-engine"} <= document["versions"].keys()
        assert {"git_commit", "git_dirty", "date"} <= document.keys()
        assert document["hardware"]["cpu"] and document["hardware"]["cores"] >= 1
        assert (document["hardware"]["gpu"] is None) == (not torch.cuda.is_available())

    def test_an_empty_directory_may_be_given(self, tmp_path):
        with RunDirectory.create(tmp_path, RECIPE) as run:
            assert run.config == RECIPE

    @pytest.mark.parametrize("sign", ["config.json", "metrics.jsonl", "summary.json", "checkpoints"])
    def test_a_directory_that_holds_a_run_is_refused_untouched(self, tmp_path, sign):
        (tmp_path / sign).write_text("{}")
        with pytest.raises(
            ValueError, match=r"already holds a run; go on with it by --resume, or use another --run-dir"
        ):
            RunDirectory.create(tmp_path, RECIPE)
        assert tree(tmp_path) == [sign]

    def test_a_file_in_the_way_is_named(self, tmp_path):
        (tmp_path / "file").write_text("")
        for path in (tmp_path / "file", tmp_path / "file" / "below" / "run"):
            with pytest.raises(
                ValueError, match=r"cannot create the run directory .*file is a file; use another --run-dir"
            ):
                RunDirectory.create(path, RECIPE)
        assert tree(tmp_path) == ["file"]

    def test_a_file_system_that_refuses_leaves_nothing_behind(self, tmp_path, monkeypatch):
        """Permissions do not stop root, so the refusal of the system is simulated, at every call that writes."""

        def refused(*_, **__):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        for call in ("mkdir", "replace", "ftruncate", "fsync"):
            with monkeypatch.context() as patch:
                patch.setattr(os, call, refused)
                if call == "ftruncate":  # only names the holder in the lock
                    RunDirectory.create(tmp_path / "named" / "run", RECIPE).close()
                    continue
                with pytest.raises(ValueError, match=r"cannot create the run directory .*run: Read-only file system"):
                    RunDirectory.create(tmp_path / "deep" / "run", RECIPE)
            assert not (tmp_path / "deep").exists(), call

    def test_a_directory_without_permission_is_named(self, tmp_path):
        tmp_path.chmod(0o500)
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user, root probably, may write anywhere")
        with pytest.raises(ValueError, match=r"cannot create the run directory .*Permission denied"):
            RunDirectory.create(tmp_path / "run", RECIPE)
        tmp_path.chmod(0o000)
        with pytest.raises(ValueError, match=r"cannot create the run directory .*Permission denied"):
            RunDirectory.create(tmp_path / "deep" / "run", RECIPE)
        with pytest.raises(ValueError, match=r"there is no run at"):
            RunDirectory.open(tmp_path / "run")
        tmp_path.chmod(0o700)

    def test_a_recipe_that_is_not_json_is_refused_before_anything_is_written(self, tmp_path):
        with pytest.raises(TypeError, match="JSON"):
            RunDirectory.create(tmp_path / "run", {"root": Path("data")})
        assert tree(tmp_path) == []

    def test_a_run_whose_start_was_killed_can_be_started_again(self, tmp_path):
        (tmp_path / ".lock").write_text("1\n")
        (tmp_path / ".config.json.0123.partial").write_text('{"rec')
        with RunDirectory.create(tmp_path, RECIPE):
            pass
        assert RunDirectory.open(tmp_path).config == RECIPE


class TestOpen:
    def test_gives_back_what_create_wrote(self, tmp_path):
        with RunDirectory.create(tmp_path / "run", {**RECIPE, "tuple": (1, 2)}, keep_checkpoints=3) as run:
            run.checkpoints.save({"w": torch.ones(2)}, step=5, epoch=1)
            environment = run.environment
        for way in (RunDirectory.open, RunDirectory.resume):
            with way(tmp_path / "run", keep_checkpoints=3) as again:
                assert again.config == {**RECIPE, "tuple": [1, 2]}
                assert again.environment == environment
                assert again.checkpoints.keep == 3
                assert again.checkpoints.load_newest()[0]["step"] == 5

    def test_says_why_there_is_no_run(self, tmp_path):
        (tmp_path / "file").write_text("")
        for way in (RunDirectory.open, RunDirectory.resume):
            with pytest.raises(ValueError, match=r"there is no run at .*absent: no such directory"):
                way(tmp_path / "absent")
            with pytest.raises(ValueError, match=r"there is no run at .*file: it is a file"):
                way(tmp_path / "file")
            with pytest.raises(ValueError, match=r"there is no run at .*: it has no config\.json"):
                way(tmp_path)
        assert tree(tmp_path) == ["file"]

    @pytest.mark.parametrize("content", [b'{"recipe": {"na', b"[]", b"{}", b'{"recipe": 3}', b"\xff\xfe\x00", b""])
    def test_damaged_config(self, tmp_path, content):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"config\.json is damaged"):
            RunDirectory.open(tmp_path)


class TestLock:
    def test_a_second_process_is_turned_away_until_the_first_lets_go(self, tmp_path):
        # the lock alone, as resume takes it, for the sake of a process that need not import torch
        script = "import sys, pathlib; from dat_engine.run.lock import RunLock; RunLock(pathlib.Path(sys.argv[1]))"

        def resume_elsewhere():
            command = [sys.executable, "-c", script, tmp_path / "run"]
            return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

        run = RunDirectory.create(tmp_path / "run", RECIPE)
        refused = resume_elsewhere()
        assert refused.returncode == 1
        assert f"is in use by process {os.getpid()}; stop that run first, or use another --run-dir" in refused.stderr
        RunDirectory.open(tmp_path / "run")  # looking is always allowed
        run.close()
        admitted = resume_elsewhere()
        assert admitted.returncode == 0, admitted.stderr

    def test_a_second_resume_in_this_process_is_turned_away_too(self, tmp_path):
        with RunDirectory.create(tmp_path / "run", RECIPE):
            with pytest.raises(ValueError, match="is in use by process"):
                RunDirectory.resume(tmp_path / "run")
            with pytest.raises(ValueError, match="is in use by process"):
                RunDirectory.resume(tmp_path / "run")
        RunDirectory.resume(tmp_path / "run").close()

    def test_the_lock_of_a_killed_process_is_free_at_once_though_its_worker_lives(self, tmp_path):
        """The worker is forked while the lock is held, as data loader workers are."""
        RunDirectory.create(tmp_path / "run", RECIPE).close()
        read_end, write_end = os.pipe()
        trainer = os.fork()
        if trainer == 0:
            held = RunDirectory.resume(tmp_path / "run")
            worker = os.fork()
            if worker == 0:
                time.sleep(60)
                os._exit(0)
            os.write(write_end, worker.to_bytes(4, "little"))
            time.sleep(60)
            del held
            os._exit(0)
        worker = int.from_bytes(os.read(read_end, 4), "little")
        try:
            with pytest.raises(ValueError, match=f"in use by process {trainer}"):
                RunDirectory.resume(tmp_path / "run")
            os.kill(trainer, 9)
            os.waitpid(trainer, 0)
            os.kill(worker, 0)  # still there
            RunDirectory.resume(tmp_path / "run").close()
        finally:
            os.kill(worker, 9)
            os.close(read_end)
            os.close(write_end)

    def test_a_file_system_without_locks_is_warned_of(self, tmp_path, monkeypatch):
        for code in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):

            def has_none(*_, code=code):
                raise OSError(code, os.strerror(code))

            with monkeypatch.context() as patch:
                patch.setattr(fcntl, "flock", has_none)
                with pytest.warns(RuntimeWarning, match="has no locks: nothing stops a second process") as warned:
                    run = RunDirectory.create(tmp_path / str(code), RECIPE)
                assert len(warned) == 1
            run.close()
            assert RunDirectory.open(run.path).config == RECIPE

    def test_a_failed_create_does_not_keep_the_lock(self, tmp_path, monkeypatch):
        with monkeypatch.context() as patch, pytest.raises(ValueError, match="No space left"):
            patch.setattr(dat_engine.run.durable_file.os, "replace", raise_full)
            RunDirectory.create(tmp_path, RECIPE)
        RunDirectory.create(tmp_path, RECIPE).close()


class TestLinks:
    """A run directory from elsewhere must not make a run write into other files of its user."""

    REFUSED = "is a symbolic link, and nothing in a run directory is written through links"

    @pytest.fixture
    def precious(self, tmp_path):
        path = tmp_path / "precious"
        path.write_text("kept")
        yield path
        assert path.read_text() == "kept"

    @pytest.fixture
    def elsewhere(self, tmp_path):
        path = tmp_path / "elsewhere"
        path.mkdir()
        yield path
        assert tree(path) == []

    @pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "summary.json"])
    def test_a_linked_file_is_refused_by_resume(self, tmp_path, name, precious):
        RunDirectory.create(tmp_path / "run", RECIPE).close()
        (tmp_path / "run" / name).unlink(missing_ok=True)
        (tmp_path / "run" / name).symlink_to(precious)
        with pytest.raises(ValueError, match=rf"{re.escape(name)} {self.REFUSED}"):
            RunDirectory.resume(tmp_path / "run")

    def test_a_linked_config_is_refused_by_resume(self, tmp_path):
        RunDirectory.create(tmp_path / "run", RECIPE).close()
        (tmp_path / "run" / "config.json").rename(tmp_path / "config.json")
        (tmp_path / "run" / "config.json").symlink_to(tmp_path / "config.json")
        with pytest.raises(ValueError, match=rf"config\.json {self.REFUSED}"):
            RunDirectory.resume(tmp_path / "run")

    @pytest.mark.parametrize("name", ["checkpoints", "tensorboard"])
    def test_a_linked_folder_is_refused_by_resume(self, tmp_path, name, elsewhere):
        RunDirectory.create(tmp_path / "run", RECIPE).close()
        (tmp_path / "run" / name).symlink_to(elsewhere)
        with pytest.raises(ValueError, match=rf"{name} {self.REFUSED}"):
            RunDirectory.resume(tmp_path / "run")

    @pytest.mark.parametrize(
        "name", [".lock", "config.json", "metrics.jsonl", "summary.json", "checkpoints", "tensorboard"]
    )
    def test_a_dangling_link_is_refused_by_create(self, tmp_path, name):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / name).symlink_to(tmp_path / "absent")
        with pytest.raises(ValueError, match=rf"{re.escape(name)} {self.REFUSED}"):
            RunDirectory.create(tmp_path / "run", RECIPE)
        assert tree(tmp_path) == ["run", f"run/{name}"]

    def test_the_lock_alone_refuses_a_link(self, tmp_path, precious):
        (tmp_path / ".lock").symlink_to(precious)
        with pytest.raises(ValueError, match=self.REFUSED):
            RunLock(tmp_path)

    def test_links_made_after_the_run_was_opened_are_refused_by_each_writer(self, tmp_path, precious, elsewhere):
        with RunDirectory.create(tmp_path / "run", RECIPE) as run:
            for name, target in (
                ("metrics.jsonl", precious),
                ("summary.json", precious),
                ("checkpoints", elsewhere),
                ("tensorboard", elsewhere),
            ):
                (run.path / name).symlink_to(target)
            for write in (
                lambda: run.metrics.append({"step": 1}),
                lambda: run.truncate_metrics(0),
                lambda: run.write_summary({"natural": 1.0}),
                lambda: run.checkpoints.save({"w": torch.ones(2)}, step=1, epoch=1),
                lambda: run.checkpoints.save_best({"w": torch.ones(2)}),
                run.tensorboard,
            ):
                with pytest.raises(ValueError, match=self.REFUSED):
                    write()

    def test_the_run_directory_itself_may_be_a_link(self, tmp_path):
        (tmp_path / "large_disk").mkdir()
        (tmp_path / "run").symlink_to(tmp_path / "large_disk")
        with RunDirectory.create(tmp_path / "run", RECIPE) as run:
            run.metrics.append({"step": 1})
        RunDirectory.resume(tmp_path / "run").close()
        assert "metrics.jsonl" in tree(tmp_path / "large_disk")


def raise_full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestMetrics:
    def test_each_row_is_on_disk_as_soon_as_it_is_appended(self, tmp_path):
        with RunDirectory.create(tmp_path / "run", RECIPE) as run:
            for step in range(3):
                run.metrics.append({"step": step, "loss": 0.1 * step})
                lines = (run.path / "metrics.jsonl").read_text().splitlines()
                assert len(lines) == step + 1
                assert json.loads(lines[-1]) == {"step": step, "loss": 0.1 * step}

    def test_what_json_lacks_becomes_null(self, tmp_path):
        log = MetricsLog(tmp_path / "metrics.jsonl")
        log.append({"loss": math.nan, "by": {"class": [math.inf, 1.0]}})
        log.close()
        text = (tmp_path / "metrics.jsonl").read_text()
        assert json.loads(text, parse_constant=pytest.fail) == {"loss": None, "by": {"class": [None, 1.0]}}

    def test_a_tensor_is_refused_and_writes_nothing(self, tmp_path):
        log = MetricsLog(tmp_path / "metrics.jsonl")
        with pytest.raises(TypeError, match="Tensor"):
            log.append({"loss": torch.tensor(1.0)})
        assert log.rows() == []

    def test_truncation_drops_exactly_the_steps_beyond(self, tmp_path):
        run = RunDirectory.create(tmp_path / "run", RECIPE)
        for step in (10, 20, 30, 40):
            run.metrics.append({"step": step, "loss": 1.0})
        run.metrics.append({"note": "no step"})
        run.close()
        with RunDirectory.resume(tmp_path / "run") as run:
            run.truncate_metrics(20)
            run.metrics.append({"step": 21, "loss": 2.0})
            rows = run.metrics.rows()
        assert rows == [
            {"step": 10, "loss": 1.0},
            {"step": 20, "loss": 1.0},
            {"note": "no step"},
            {"step": 21, "loss": 2.0},
        ]

    def test_truncation_without_a_log_is_nothing(self, tmp_path):
        with RunDirectory.create(tmp_path / "run", RECIPE) as run:
            run.truncate_metrics(0)
            assert run.metrics.rows() == []

    @pytest.mark.parametrize("torn", [b'{"step": 3, "lo', b'{"step": 3}\x00\x00', b"\xff", b"4"])
    @pytest.mark.parametrize("truncate", [True, False])
    def test_a_torn_last_line_costs_that_line_only(self, tmp_path, torn, truncate):
        path = tmp_path / "metrics.jsonl"
        path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + torn)
        log = MetricsLog(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert log.rows() == [{"step": 1}, {"step": 2}]
            if truncate:
                log.truncate(after_step=5)
            log.append({"step": 3})
            assert log.rows() == [{"step": 1}, {"step": 2}, {"step": 3}]

    def test_a_damaged_line_in_the_middle_is_warned_of(self, tmp_path):
        path = tmp_path / "metrics.jsonl"
        path.write_bytes(b'{"step": 1}\n{"st\n{"step": 2}\n')
        with pytest.warns(RuntimeWarning, match=r"line 2 of .*metrics\.jsonl is damaged"):
            assert MetricsLog(path).rows() == [{"step": 1}, {"step": 2}]

    def test_a_full_disk_is_named_and_the_log_goes_on_once_there_is_room(self, tmp_path):
        log = MetricsLog(tmp_path / "metrics.jsonl")
        log.append({"step": 1})
        file = log._file

        class Full:
            def write(self, line):
                return file.write(line[:4])  # what the kernel does when the last block fills up

            fileno = staticmethod(file.fileno)

            close = staticmethod(file.close)

        log._file = Full()
        with pytest.raises(RunFailedError, match=r"cannot write figures to .*metrics\.jsonl: No space left"):
            log.append({"step": 2})
        log.append({"step": 3})
        assert log.rows() == [{"step": 1}, {"step": 3}]


class TestSummaryAndEvents:
    def test_summary_is_replaced_whole_or_not_at_all(self, tmp_path, monkeypatch):
        with RunDirectory.create(tmp_path / "run", RECIPE) as run:
            assert run.read_summary() is None
            run.write_summary({"natural": 84.17, "aa": math.nan})
            assert run.read_summary() == {"natural": 84.17, "aa": None}
            with (
                monkeypatch.context() as patch,
                pytest.raises(RunFailedError, match=r"cannot write .*summary\.json: No space"),
            ):
                patch.setattr(os, "fsync", raise_full)
                run.write_summary({"natural": 0.0})
            with pytest.raises(TypeError):
                run.write_summary({"natural": torch.ones(())})
            assert run.read_summary() == {"natural": 84.17, "aa": None}
            assert tree(run.path) == [".lock", "config.json", "summary.json"]

    def test_events_of_dropped_steps_are_hidden(self, tmp_path):
        event_accumulator = pytest.importorskip(
            "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard to read events"
        )
        with RunDirectory.create(tmp_path / "run", RECIPE) as run:
            assert not (run.path / "tensorboard").exists(), "lazy"
            for step in (10, 20, 30):
                run.tensorboard().add_scalar("loss", 1.0, step)
        with RunDirectory.resume(tmp_path / "run") as run:
            run.truncate_metrics(20)
            run.tensorboard().add_scalar("loss", 2.0, 25)
        events = event_accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
        events.Reload()
        assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 1.0), (20, 1.0), (25, 2.0)]


class TestProvenance:
    def test_is_json_and_names_neither_machine_nor_user(self):
        text = json.dumps(describe_environment(), allow_nan=False)
        assert os.uname().nodename not in text or len(os.uname().nodename) < 4
        assert str(Path.home()) not in text

    def test_commit_only_of_the_checkout_that_tracks_the_source(self, tmp_path, monkeypatch):
        def git(*arguments):
            identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
            environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
            answer = subprocess.run(
                ["git", *identity, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert answer.returncode == 0, answer.stderr
            return answer.stdout.strip()

        source = tmp_path / "engine" / "provenance.py"
        installed = tmp_path / ".venv" / "site-packages" / "provenance.py"
        for file in (source, installed):
            file.parent.mkdir(parents=True)
            file.write_text("x = 1\n")
        assert _source_commit(source) == (None, None)
        git("init", "--quiet")
        git("add", "engine")
        git("commit", "--quiet", "-m", "first")
        commit = git("rev-parse", "HEAD")
        assert _source_commit(source) == (commit, False)
        assert _source_commit(installed) == (None, None)
        source.write_text("x = 2\n")
        assert _source_commit(source) == (commit, True)
        monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
        assert _source_commit(source) == (commit, True), "as inside a git hook"
        monkeypatch.setenv("PATH", str(tmp_path))
        assert _source_commit(source) == (None, None), "no git at all"


def test_a_name_that_is_not_utf8_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(UserError, match="not UTF-8; use another name"):
        RunDirectory.create(tmp_path / "run\udcff", {})
    assert not list(tmp_path.iterdir())
