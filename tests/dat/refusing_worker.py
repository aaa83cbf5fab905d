"""One process of two is given what an evaluation refuses; started by torchrun.

usage: refusing_worker.py OUTPUT_PREFIX. Each process writes what was raised.
"""

import sys
from pathlib import Path

import torch
from torch import nn

from dat.evaluation import evaluate
from dat_engine.distributed import end_process, join
from dat_engine.errors import UserError


def refuse() -> None:
    processes = join("cpu")
    labels = torch.arange(8) % 4
    labels[5] = 9  # of the share of process 1, in its second batch
    try:
        evaluate(
            nn.Sequential(nn.Flatten(), nn.Linear(48, 4)),
            (torch.rand(8, 3, 4, 4), labels),
            ["natural"],
            epsilon=0.1,
            batch_size=2,
            processes=processes,
        )
        raised = "nothing"
    except UserError as error:
        raised = str(error)
    Path(f"{sys.argv[1]}{processes.rank}").write_text(raised)
    end_process()


if __name__ == "__main__":
    refuse()
