"""Runs `dat train` in a forked child, kills it at random moments, resumes it, and at last lets it finish.

usage: killed_twenty_times.py RUN_DIRECTORY KILLS [flags of dat train]. Prints how many kills hit a run that was not finished.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

# imported once, before the forks: a child starts in no time, and no thread exists yet
import dat.training.train  # noqa: F401
from dat.cli import main

SOONEST, LATEST = 0.1, 2.0
"""Seconds from the child's start to its death: before its first step, in a step, a validation, a save, or between them."""


def started(words: list[str]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        code = main(words)
    finally:
        sys.stdout.flush()
        os._exit(code)


def train() -> None:
    run, kills, flags = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    moments = random.Random(0)
    hit = 0
    words = ["train", "digits-resnet", *flags, "--run-dir", str(run)]
    for _ in range(kills):
        child = started([*words, "--resume"] if (run / "config.json").exists() else words)
        time.sleep(moments.uniform(SOONEST, LATEST))
        os.kill(child, signal.SIGKILL)
        hit += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    last = started([*words, "--resume"] if (run / "config.json").exists() else words)
    code = os.waitstatus_to_exitcode(os.waitpid(last, 0)[1])
    print("kills", hit)
    sys.exit(code)


if __name__ == "__main__":
    train()
