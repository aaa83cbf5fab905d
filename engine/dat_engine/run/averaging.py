"""What averages of weights need at the ends of epochs: the mean over epochs taken on, and BatchNorm statistics of their own.

Statistics of the averaged weights are estimated, branch by branch, from what each branch is trained on: some training batches
go through the method's attack on the averaged network and then through that network in train mode, and its statistics are the
plain mean over these batches (and over all processes'). Nothing of the run itself is changed by that: neither random states
nor the classifier, other players or the loader's position. It depends on seed and epoch alone, so a resumed run repeats it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from dat_engine.attack.attack_model import AttackModel
from dat_engine.data import Batch
from dat_engine.distributed import Processes
from dat_engine.model.branches import branch_layout
from dat_engine.step.averages import Average
from dat_engine.step.progress import TrainingProgress
from dat_engine.step.training_step import TrainingStep


class Averaging:
    """Brings a step's averages to where they can be evaluated; does nothing for a step without averages.

    Args:
        batches: the batches of the present epoch from its first on, as the run's trainer reads them.
    """

    def __init__(
        self, step: TrainingStep, processes: Processes, batches: Callable[[], Generator[Batch, None, None]]
    ) -> None:
        self._step = step
        self._processes = processes
        self._batches = batches
        self._attack_models: dict[Average, AttackModel | None] = {}

    def end_epoch(self, *, epochs_done: int, epochs: int) -> None:
        """Take the present weights into the mean over epochs, and make all averages ready."""
        self._step.averages.end_epoch(epochs_done)
        self.make_ready(epoch=float(epochs_done), epochs=epochs)

    def make_ready(self, *, epoch: float, epochs: int) -> None:
        """Estimate the statistics of the averages that have none of their own; every process takes part.

        Args:
            epoch: epochs done, fractional; what the method's schedules are asked for.
            epochs: of the whole run.

        Raises:
            UserError, RunFailedError: of the loader.
        """
        for average in self._step.averages.unready():
            progress = TrainingProgress.at_start(self._step.device)
            progress.set(epoch=epoch, fraction=min(epoch / epochs, 1.0))
            seed = _seed(self._step, int(epoch), self._processes)
            with self._step.guard.keeping_all_statistics(), _random_states_put_back(seed, self._step.device):
                self._estimate(average, progress, seed)
            average.ready.fill_(1)

    def _estimate(self, average: Average, progress: TrainingProgress, seed: int) -> None:
        step, network = self._step, average.network
        with torch.no_grad():  # what is not estimated, and what the first attack sees
            for own, raw in zip(network.buffers(), step.model.buffers(), strict=True):
                own.copy_(raw)
        if not _estimated(network):
            return
        if average not in self._attack_models:
            self._attack_models[average] = step.attack_model_of(network)
        attack_model = self._attack_models[average]
        generator = torch.Generator(step.device).manual_seed(seed)
        with _plain_means(network), closing(self._batches()) as batches:
            for index, batch in enumerate(itertools.islice(batches, average.bn_batches)):
                if attack_model is not None:
                    attack_model.refresh()
                with torch.no_grad():
                    noise = step.method.draw_noise(batch, generator)
                examples = step.method.examples(attack_model, batch, noise, progress).detached()
                if index == 0:
                    _count_from_zero(network)
                self._forward(network, examples.groups)
        layers = enumerate(_estimated(network))
        statistics = ("running_mean", "running_var")
        self._processes.average_(
            {f"{index}.{name}": layer.get_buffer(name) for index, layer in layers for name in statistics}
        )

    @torch.no_grad()
    def _forward(self, network: nn.Module, groups: tuple[Tensor, ...]) -> None:
        step = self._step
        images = torch.cat(groups).contiguous(memory_format=step.precision.memory_format)
        with (
            branch_layout(network, step.method.layout),
            step.precision.autocast(step.device),
            self._processes.exchanging(),
        ):
            network(images)


def _estimated(network: nn.Module) -> list[_NormBase]:
    """The layers whose running statistics a forward in train mode updates."""
    return [
        layer
        for layer in network.modules()
        if isinstance(layer, _NormBase) and layer.training and layer.num_batches_tracked is not None
    ]


@contextmanager
def _plain_means(network: nn.Module) -> Iterator[None]:
    """Within the block running statistics are plain means over the batches that a layer has counted."""
    layers = _estimated(network)
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = None
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


@torch.no_grad()
def _count_from_zero(network: nn.Module) -> None:
    """The first batch counted replaces what was there."""
    for layer in _estimated(network):
        layer.get_buffer("num_batches_tracked").zero_()


@contextmanager
def _random_states_put_back(seed: int, device: torch.device) -> Iterator[None]:
    """Within the block torch's own generators, which dropout draws from, start from `seed`."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index].manual_seed(seed)
        yield


def _seed(step: TrainingStep, epoch: int, processes: Processes) -> int:
    return (step.seed + 1_000_003 * processes.rank + 15_485_863 * (epoch + 1)) % 2**63
