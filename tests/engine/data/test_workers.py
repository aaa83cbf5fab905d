"""Worker processes: signals to the whole group leave them alone, and one that dies is replaced, bit for bit."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch
from torch.utils.data import DataLoader

from dat_engine.data import Augmentation, TorchvisionLoader
from dat_engine.data.loaders.workers import batches_of_workers
from dat_engine.errors import RunFailedError

GROUP = """
import os, signal, subprocess, sys, time
import torch
from dat_engine.data import Augmentation, ImageArrays, TorchvisionLoader
from dat_engine.run.stop import Stop

arrays = ImageArrays(
    images=torch.zeros(64, 3, 8, 8, dtype=torch.uint8), targets=torch.arange(64) % 4, class_names=tuple("abcd")
)
loader = TorchvisionLoader(
    arrays, batch_size=4, augmentation=Augmentation(padding=1, flip=True), seed=0, device="cpu", workers=2
)
with Stop() as stop:
    for step, _ in enumerate(loader.epoch(0)):
        if step == 2:
            subprocess.run(["sh", "-c", f"kill -{sys.argv[1]} 0"])
            time.sleep(0.5)
print("all", step + 1, "batches", stop.exit_code)
"""


def loader(arrays):
    return TorchvisionLoader(
        arrays, batch_size=4, augmentation=Augmentation(padding=1, flip=True), seed=3, device="cpu", workers=2
    )


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_group_leaves_the_workers_alone(number, exit_code):
    ran = subprocess.run(
        [sys.executable, "-c", GROUP, str(int(number))], capture_output=True, text=True, start_new_session=True
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"all 16 batches {exit_code}\n", "")


def test_a_worker_that_is_killed_is_replaced_and_no_batch_changes(small_arrays):
    arrays = small_arrays(64)
    expected = list(loader(arrays).epoch(1))
    found = []
    with pytest.warns(UserWarning, match=r"a loader worker died \(by SIGKILL\); new ones go on from batch"):
        for batch in loader(arrays).epoch(1):
            found.append(batch)
            if len(found) == 2:
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
                time.sleep(0.3)  # nothing is raised here, in what would be the training step
    assert len(found) == len(expected) == 16
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.indices, b.indices)


class _Deadly(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_workers_that_keep_dying_end_the_run_with_a_sentence():
    made = []
    with (
        warnings.catch_warnings(),
        pytest.raises(RunFailedError, match=r"workers died 3 times before batch \d of .*SIGKILL"),
    ):
        warnings.simplefilter("ignore")
        for value in batches_of_workers(lambda first: DataLoader(_Deadly(), sampler=range(first, 8), num_workers=1), 0):
            made.append(int(value))
    assert made == list(range(len(made))) and len(made) <= 5


class _Faulty(_Deadly):
    def __getitem__(self, index):
        raise RuntimeError("a defect")


def test_an_error_in_a_worker_is_no_death():
    with pytest.raises(RuntimeError, match="a defect"):
        list(batches_of_workers(lambda first: DataLoader(_Faulty(), num_workers=1), 0))


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel to end workers with their parent")
def test_workers_end_with_the_process_that_trains():
    deadly = "print(*[child.pid for child in A()], flush=True); os.kill(os.getpid(), 9)"
    script = GROUP.replace('subprocess.run(["sh", "-c", f"kill -{sys.argv[1]} 0"])', deadly)
    script = "from multiprocessing import active_children as A\n" + script
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    workers = [int(pid) for pid in ran.stdout.split()]
    assert len(workers) == 2 and ran.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 4  # of themselves they look after their parent every five seconds
    while any(_runs(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_runs(pid) for pid in workers)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
