"""Checkpoints come back exactly, survive what happens to files and disks, and never load damage."""

import errno
import hashlib
import io
import json
import math
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import dat_engine.run.durable_file
from dat_engine.run.checkpoint import CheckpointError, CheckpointFolder, CheckpointFormatError, load, save

ROOT = Path(__file__).resolve().parents[3]


def identical(left, right):
    """Same types, keys in the same order, values; tensors bit for bit (nan too)."""
    if isinstance(left, torch.Tensor):
        return (
            isinstance(right, torch.Tensor)
            and (left.dtype, left.shape) == (right.dtype, right.shape)
            and left.contiguous().numpy(force=True).tobytes() == right.contiguous().numpy(force=True).tobytes()
            if left.dtype != torch.bfloat16
            else right.dtype == torch.bfloat16 and identical(left.view(torch.int16), right.view(torch.int16))
        )
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(identical(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(identical, left, right))
    return left == right or (left != left and right != right)


def small_state(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"model": {"w": torch.randn(3, 4, generator=generator)}, "rng": generator.get_state()[:16], "lr": 0.1}


def newest_quietly(folder):
    """load_newest, failing on any warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return folder.load_newest()


def flip_bit(path, position, bit=0):
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def leftovers(folder):
    return [path.name for path in Path(folder).iterdir() if not path.name.endswith(".safetensors")]


class TestRoundTrip:
    def test_json_leaves_keep_types_and_values(self, tmp_path):
        state = {
            "none": None,
            "flags": [True, False],
            "ints": [0, -1, 2**80],
            "floats": [0.1, -0.0, math.inf, -math.inf, math.nan, 5e-324],
            "text": 'é "quoted" \\ \n \u2028',
            "nested": {"a": {"b": [{"c": (1, (2.5, None), [])}]}},
            "empty": {"dict": {}, "list": [], "tuple": ()},
            "": "empty key",
            "$tensor": "a key that looks like the format's own",
            "mixed": {1: "int", "1": "str", -3: {"$dict": [1]}},
        }
        save(tmp_path / "c.safetensors", state)
        assert identical(load(tmp_path / "c.safetensors"), state)

    @pytest.mark.parametrize(
        "dtype",
        [
            torch.bool,
            torch.uint8,
            torch.int8,
            torch.int16,
            torch.int32,
            torch.int64,
            torch.float16,
            torch.bfloat16,
            torch.float32,
            torch.float64,
        ],
    )
    def test_every_dtype_and_shape_comes_back_bit_for_bit(self, tmp_path, dtype):
        noise = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1)) * 50
        state = {
            "many": noise.to(dtype),
            "scalar": noise[0, 0, 0].to(dtype),
            "empty": torch.empty(0, 3, dtype=dtype),
            "one": noise[:1, :1, :1].to(dtype),
        }
        if dtype.is_floating_point:
            state["special"] = torch.tensor([math.nan, math.inf, -math.inf, -0.0], dtype=dtype)
        save(tmp_path / "c.safetensors", state)
        assert identical(load(tmp_path / "c.safetensors"), state)

    def test_views_shared_and_strided_tensors_come_back_with_storage_of_their_own(self, tmp_path):
        base = torch.arange(48, dtype=torch.float32).reshape(2, 3, 2, 4)
        state = {
            "transposed": base.transpose(1, 3),
            "every_other": base[..., ::2],
            "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
            "channels_last": base.contiguous(memory_format=torch.channels_last),
            "tied": [base, base],
            "inside": base[1],
            "parameter": torch.nn.Parameter(base[0].clone()),
        }
        save(tmp_path / "c.safetensors", state)
        loaded = load(tmp_path / "c.safetensors")
        for key in ("transposed", "every_other", "expanded", "channels_last", "inside", "parameter"):
            assert loaded[key].is_contiguous()
            assert torch.equal(loaded[key], state[key])
        loaded["tied"][0].zero_()
        assert torch.equal(loaded["tied"][1], base)
        assert torch.equal(loaded["inside"], base[1])
        assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in loaded["tied"])

    def test_loaded_tensors_no_longer_depend_on_the_file(self, tmp_path):
        path = tmp_path / "c.safetensors"
        save(path, small_state())
        loaded = load(path)
        with path.open("r+b") as file:
            file.write(b"\0" * path.stat().st_size)
        assert identical(loaded, small_state())

    def test_optimizer_goes_on_exactly_where_it_was(self, tmp_path):
        def make():
            torch.manual_seed(3)
            model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))
            sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
            adam = torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.8, 0.95))
            return model, [sgd, adam]

        def steps(model, optimizers, seed):
            generator = torch.Generator().manual_seed(seed)
            for optimizer in optimizers:
                optimizer.zero_grad()
                model(torch.randn(8, 4, generator=generator)).square().sum().backward()
                optimizer.step()

        model, optimizers = make()
        steps(model, optimizers, 0)
        state = {"model": model.state_dict(), "optimizers": [each.state_dict() for each in optimizers]}
        save(tmp_path / "c.safetensors", state)
        loaded = load(tmp_path / "c.safetensors")
        assert list(loaded["optimizers"][0]["state"]) == [0, 1, 2, 3, 4, 5]
        assert loaded["optimizers"][1]["param_groups"][0]["betas"] == (0.8, 0.95)
        assert identical(loaded["optimizers"], state["optimizers"])

        resumed, resumed_optimizers = make()
        resumed.load_state_dict(loaded["model"])
        for optimizer, optimizer_state in zip(resumed_optimizers, loaded["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
        steps(model, optimizers, 1)
        steps(resumed, resumed_optimizers, 1)
        assert identical(resumed.state_dict(), model.state_dict())

    def test_subclasses_become_their_base(self, tmp_path):
        save(tmp_path / "c.safetensors", OrderedDict(rate=np.float64(0.1), names=OrderedDict(b=1, a=2)))
        assert identical(load(tmp_path / "c.safetensors"), {"rate": 0.1, "names": {"b": 1, "a": 2}})

    def test_names_that_would_collide_do_not(self, tmp_path):
        one, two, three = (torch.full((2,), float(value)) for value in (1, 2, 3))
        state = {"a": {"b": one}, "a/b": two, "a/b#2": three, "__metadata__": one, "x": {1: two, "1": three}}
        save(tmp_path / "c.safetensors", state)
        assert identical(load(tmp_path / "c.safetensors"), state)

    def test_any_safetensors_reader_sees_the_tensors_under_joined_names(self, tmp_path):
        state = {"model": {"conv.weight": torch.randn(2, 3)}, "optimizer": {"state": {0: {"momentum": torch.ones(3)}}}}
        save(tmp_path / "c.safetensors", state)
        with safe_open(tmp_path / "c.safetensors", framework="pt") as file:
            assert sorted(file.keys()) == ["model/conv.weight", "optimizer/state/0/momentum"]
            assert torch.equal(file.get_tensor("model/conv.weight"), state["model"]["conv.weight"])

    @pytest.mark.parametrize(
        ("state", "place"),
        [
            ({"a": [1, {"b": object()}]}, r"state\['a'\]\[1\]\['b'\] is a builtins.object"),
            ({"a": {1.5: 2}}, r"state\['a'\] has the key 1.5"),
            ({"a": np.ones(2)}, r"state\['a'\] is a numpy.ndarray"),
            ({"a": torch.eye(2).to_sparse()}, r"state\['a'\] is a tensor of torch.float32, torch.sparse_coo"),
            ({"a": torch.ones(2, dtype=torch.complex64)}, r"state\['a'\] is a tensor of torch.complex64"),
            ({"a": torch.ones(2, device="meta")}, r"state\['a'\] is a tensor of .* on meta"),
        ],
    )
    def test_what_cannot_be_stored_is_named_and_nothing_is_written(self, tmp_path, state, place):
        with pytest.raises(TypeError, match=place):
            save(tmp_path / "c.safetensors", state)
        assert list(tmp_path.iterdir()) == []


class TestDamage:
    def test_every_flipped_bit_is_noticed(self, tmp_path):
        path = tmp_path / "c.safetensors"
        save(path, {"w": torch.arange(4, dtype=torch.float32), "s": {0: torch.tensor(True)}, "lr": 0.5})
        whole = path.read_bytes()
        for position in range(len(whole)):
            path.write_bytes(whole)
            flip_bit(path, position, position % 8)
            with pytest.raises(CheckpointError, match=r"c\.safetensors"):
                load(path)

    def test_every_truncation_is_noticed(self, tmp_path):
        path = tmp_path / "c.safetensors"
        save(path, small_state())
        whole = path.read_bytes()
        for length in range(0, len(whole), 3):
            path.write_bytes(whole[:length])
            with pytest.raises(CheckpointError, match=rf"c\.safetensors is truncated: it has {length} bytes"):
                load(path)

    def test_appended_bytes_are_noticed(self, tmp_path):
        path = tmp_path / "c.safetensors"
        save(path, small_state())
        path.write_bytes(path.read_bytes() + b"\0")
        with pytest.raises(CheckpointError, match="damaged"):
            load(path)

    def test_other_files_are_not_checkpoints(self, tmp_path):
        path = tmp_path / "c.safetensors"
        with pytest.raises(CheckpointError, match=r"there is no checkpoint at .*c\.safetensors"):
            load(path)
        path.write_text("epoch,loss\n1,2.3\n")
        with pytest.raises(CheckpointError, match=r"c\.safetensors is not a checkpoint"):
            load(path)
        save_file({"w": torch.ones(2)}, path)
        with pytest.raises(CheckpointError, match=r"c\.safetensors is not a checkpoint of this engine"):
            load(path)
        with pytest.raises(CheckpointError, match=r"cannot read the checkpoint|is not a checkpoint"):
            load(tmp_path)

    def test_a_pickle_is_refused_and_not_executed(self, tmp_path):
        class Payload:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "executed"),)

        path = tmp_path / "c.safetensors"
        path.write_bytes(pickle.dumps(Payload()))
        with pytest.raises(CheckpointError):
            load(path)
        torch.save({"x": Payload()}, path)
        with pytest.raises(CheckpointError):
            load(path)
        assert not (tmp_path / "executed").exists()

    def test_a_newer_format_is_called_that(self, tmp_path):
        path = tmp_path / "c.safetensors"
        save_file({"w": torch.ones(2)}, path, {"dat_engine_checkpoint": "2", "state": "{}", "sha256": "0"})
        with pytest.raises(
            CheckpointFormatError, match=r"c\.safetensors has format 2 and this dat-engine reads format 1"
        ):
            load(path)

    @pytest.mark.parametrize("text", ["[1]", "{", '{"a":{"$tensor":"absent"}}', '{"a":{"$dict":[1]}}', "[" * 100_000])
    def test_malformed_contents_with_a_right_checksum_are_refused(self, tmp_path, text):
        path = tmp_path / "c.safetensors"
        checksum = hashlib.sha256(json.dumps([1, text]).encode()).hexdigest()
        save_file({}, path, {"dat_engine_checkpoint": "1", "state": text, "sha256": checksum})
        with pytest.raises(CheckpointError, match="damaged"):
            load(path)


class FullDisk(io.FileIO):
    def write(self, _):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestWriting:
    @pytest.mark.parametrize("where", ["write", "fsync"])
    def test_full_disk_leaves_the_older_checkpoints_whole(self, tmp_path, monkeypatch, where):
        folder = CheckpointFolder(tmp_path)
        folder.save(small_state(1), step=1, epoch=0)
        folder.save_best(small_state(1))

        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            if where == "write":
                patch.setattr(dat_engine.run.durable_file, "open", lambda file, _: FullDisk(file, "wb"), raising=False)
            else:
                patch.setattr(os, "fsync", full)
            for writing in (
                lambda: folder.save(small_state(2), step=2, epoch=0),
                lambda: folder.save_best(small_state(2)),
            ):
                with pytest.raises(CheckpointError, match=r"no space left .*safetensors.*older checkpoints are whole"):
                    writing()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "step-00000001.safetensors"]
        assert identical(newest_quietly(folder)[0]["model"], small_state(1)["model"])
        assert identical(folder.load_best(), small_state(1))

    def test_a_write_that_the_system_cuts_short_leaves_nothing_behind(self, tmp_path):
        path = tmp_path / "c.safetensors"
        save(path, small_state())
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, limits[1]))
        try:
            with pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*c\.safetensors"):
                save(path, {"w": torch.zeros(256 * 1024)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert leftovers(tmp_path) == []
        assert identical(load(path), small_state())

    def test_ctrl_c_while_writing_removes_the_temporary(self, tmp_path, monkeypatch):
        def interrupted(_):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path / "c.safetensors", small_state())
        assert list(tmp_path.iterdir()) == []

    def test_content_is_synced_before_the_rename_and_the_directory_after(self, tmp_path, monkeypatch):
        events = []
        fsync, replace = os.fsync, os.replace

        def watched_fsync(descriptor):
            target = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            events.append(("sync directory",) if target.is_dir() else ("sync file", target.stat().st_size))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", watched_fsync)
        monkeypatch.setattr(os, "replace", lambda *names: (events.append(("rename",)), replace(*names)))
        save(tmp_path / "c.safetensors", small_state())
        size = (tmp_path / "c.safetensors").stat().st_size
        assert events == [("sync file", size), ("rename",), ("sync directory",)]

    def test_writer_killed_in_the_middle(self, tmp_path):
        script = """
import os, sys, time, torch
from dat_engine.run.checkpoint import CheckpointFolder
folder = CheckpointFolder(sys.argv[1])
for step in (1, 2):
    folder.save({"w": torch.full((1000,), float(step))}, step=step, epoch=0)
os.fsync = lambda _: (print("written", flush=True), time.sleep(60))
folder.save({"w": torch.zeros(1000)}, step=3, epoch=0)
"""
        child = subprocess.Popen([sys.executable, "-c", script, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert child.stdout.readline() == "written\n"
        finally:
            child.kill()
            child.communicate()
        assert len(leftovers(tmp_path)) == 1
        folder = CheckpointFolder(tmp_path)
        state, path = newest_quietly(folder)
        assert path.name == "step-00000002.safetensors"
        assert torch.equal(state["w"], torch.full((1000,), 2.0))
        assert len(leftovers(tmp_path)) == 1, "reading must not delete what might be a live writer's"
        folder.save({"w": torch.zeros(1)}, step=3, epoch=0)
        assert leftovers(tmp_path) == []

    def test_writer_killed_anywhere(self, tmp_path):
        """A forked writer saves without pause and is killed at arbitrary moments; what it leaves is always whole."""
        folder = CheckpointFolder(tmp_path)
        state = {f"w{index}": torch.zeros(64) for index in range(20)}
        folder.save(state, step=0, epoch=0)
        reached = 0
        for attempt in range(12):
            newest = folder.step_paths()[0]
            writer = os.fork()
            if writer == 0:
                try:
                    for step in range(reached + 1, reached + 10_000):
                        folder.save({name: tensor + step for name, tensor in state.items()}, step=step, epoch=0)
                finally:
                    os._exit(1)
            ends = time.monotonic() + 60
            while attempt % 2 and folder.step_paths()[0] == newest and time.monotonic() < ends:
                time.sleep(0.001)  # every other one saves at least once, however slow the disk is
            time.sleep(0.004 + 0.0037 * attempt)
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
            loaded, path = newest_quietly(folder)
            assert loaded["step"] >= reached
            reached = loaded["step"]
            assert path.name == f"step-{reached:08d}.safetensors"
            assert all(torch.equal(loaded[name], tensor + reached) for name, tensor in state.items())
            for older in folder.step_paths():
                load(older)
        assert reached > 0


class TestFolder:
    def test_keeps_the_newest_and_adds_step_and_epoch(self, tmp_path):
        folder = CheckpointFolder(tmp_path / "checkpoints", keep=2)
        for step in (10, 20, 30):
            path = folder.save(small_state(step), step=step, epoch=step // 10)
        assert path.name == "step-00000030.safetensors"
        assert [each.name for each in folder.step_paths()] == ["step-00000030.safetensors", "step-00000020.safetensors"]
        state, newest = newest_quietly(folder)
        assert newest == path
        assert identical(state, {**small_state(30), "step": 30, "epoch": 3})

    def test_older_ones_go_only_when_the_new_one_is_durable(self, tmp_path, monkeypatch):
        folder = CheckpointFolder(tmp_path, keep=1)
        folder.save(small_state(), step=1, epoch=0)
        seen = []
        sync_directory = dat_engine.run.durable_file.sync_directory
        monkeypatch.setattr(
            dat_engine.run.durable_file,
            "sync_directory",
            lambda path: (sync_directory(path), seen.append([each.name for each in folder.step_paths()])),
        )
        folder.save(small_state(), step=2, epoch=0)
        assert seen == [["step-00000002.safetensors", "step-00000001.safetensors"]]
        assert [each.name for each in folder.step_paths()] == ["step-00000002.safetensors"]

    def test_damaged_newest_falls_back_with_a_warning_that_names_it(self, tmp_path):
        folder = CheckpointFolder(tmp_path)
        folder.save(small_state(1), step=1, epoch=0)
        flip_bit(folder.save(small_state(2), step=2, epoch=0), -1)
        with pytest.warns(
            RuntimeWarning, match=r"step-00000002\.safetensors is damaged.*back to step-00000001"
        ) as caught:
            state, path = folder.load_newest()
        assert len(caught) == 1
        assert (state["step"], path.name) == (1, "step-00000001.safetensors")

    @pytest.mark.parametrize("keep", [1, 2])
    def test_after_a_fall_back_the_damaged_one_makes_way(self, tmp_path, keep):
        folder = CheckpointFolder(tmp_path, keep=keep)
        folder.save(small_state(1), step=100, epoch=0)
        CheckpointFolder(tmp_path, keep=2).save(small_state(2), step=200, epoch=0)
        flip_bit(tmp_path / "step-00000200.safetensors", -1)
        folder.save(small_state(3), step=150, epoch=0)
        state, path = newest_quietly(folder)
        assert (state["step"], path.name) == (150, "step-00000150.safetensors")
        assert len(folder.step_paths()) == keep

    def test_none_readable(self, tmp_path):
        folder = CheckpointFolder(tmp_path / "checkpoints")
        with pytest.raises(CheckpointError, match=r"there is no checkpoint in .*checkpoints"):
            folder.load_newest()
        for step in (1, 2):
            flip_bit(folder.save(small_state(), step=step, epoch=0), -1)
        with (
            pytest.warns(RuntimeWarning, match="step-00000002"),
            pytest.raises(CheckpointError, match=r"no checkpoint in .* can be read: .*step-00000002.*step-00000001"),
        ):
            folder.load_newest()

    def test_a_newer_format_is_no_reason_to_fall_back(self, tmp_path):
        folder = CheckpointFolder(tmp_path)
        folder.save(small_state(), step=1, epoch=0)
        header = {"dat_engine_checkpoint": "9", "state": "{}", "sha256": "0"}
        save_file({}, tmp_path / "step-00000002.safetensors", header)
        with pytest.raises(CheckpointFormatError, match="step-00000002"):
            folder.load_newest()

    def test_best_is_apart_from_the_steps(self, tmp_path):
        folder = CheckpointFolder(tmp_path, keep=1)
        folder.save_best(small_state(1))
        for step in (1, 2, 3):
            folder.save(small_state(step), step=step, epoch=0)
        assert identical(folder.load_best(), small_state(1))
        assert folder.save_best(small_state(3)) == folder.best_path == tmp_path / "best.safetensors"
        assert identical(folder.load_best(), small_state(3))

    def test_other_files_in_the_folder_are_left_alone(self, tmp_path):
        folder = CheckpointFolder(tmp_path, keep=1)
        for name in ("step-1.safetensors", "step-00000009.safetensors.old", "notes.txt"):
            (tmp_path / name).write_text("mine")
        for step in (1, 2):
            folder.save(small_state(), step=step, epoch=0)
        assert newest_quietly(folder)[0]["step"] == 2
        assert (tmp_path / "step-1.safetensors").read_text() == "mine"
        assert (tmp_path / "step-00000009.safetensors.old").exists() and (tmp_path / "notes.txt").exists()

    def test_a_file_in_the_way_is_named(self, tmp_path):
        (tmp_path / "checkpoints").write_text("")
        with pytest.raises(
            CheckpointError, match=r"cannot write the checkpoint .*checkpoints.step-00000001.*: File exists"
        ):
            CheckpointFolder(tmp_path / "checkpoints").save({}, step=1, epoch=0)

    def test_keep_must_leave_one(self, tmp_path):
        with pytest.raises(ValueError, match="keep=0"):
            CheckpointFolder(tmp_path, keep=0)
