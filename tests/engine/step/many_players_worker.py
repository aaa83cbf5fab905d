"""Run under torchrun by test_many_players.py: prototypes with several networks, on this process's own batches.

Argument: output folder. Every process writes the weights that it ends with, and what the frozen classifier was before.
"""

import sys
from pathlib import Path

import torch

from dat_engine.distributed import end_process, join
from dat_engine.run.averaging import Averaging
from dat_engine.step.awp import AdversarialWeightPerturbation
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.training_step import TrainingStep
from dat_engine.step.weight_settings import EMASettings
from tests.engine.step.prototypes import LASAT, AToP, batch, classifier, purified_classifier


def main(folder: str) -> None:
    torch.set_num_threads(1)
    processes = join("cpu")
    found = {}
    for name, method, model in (("las-at", LASAT(), classifier()), ("atop", AToP(), purified_classifier())):
        first = {key: value.clone() for key, value in model.state_dict().items()}
        step = TrainingStep(
            model,
            method,
            optimizer=SGDSettings(learning_rate=0.05),
            weight_perturbation=AdversarialWeightPerturbation(0.02),
            ema=EMASettings(decay=0.5, bn_batches=2),
            processes=processes,
        )
        skipped = [float(step(batch(10 * index + processes.rank))["skipped"]) for index in range(3)]
        assert skipped == [0.0, 0.0, 0.0]
        averaging = Averaging(step, processes, lambda: (batch(10 * index + processes.rank) for index in range(3)))
        averaging.end_epoch(epochs_done=1, epochs=2)
        found[name] = {"first": first, "model": model.state_dict(), "parameters": dict(model.named_parameters())}
        found[name]["average"] = step.averages.by_name["ema"].network.state_dict()
        if name == "las-at":
            found[name]["policy"] = method.policy.state_dict()
    torch.save(found, Path(folder) / f"{processes.rank}.pt")
    end_process()


main(sys.argv[1])
