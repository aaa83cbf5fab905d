"""Run by tests/engine/run/test_distributed.py, alone or under torchrun: DAT steps on this process's share of fixed batches.

Arguments: output file, update mode, precision. Writes losses and final weights (rank 0) and the collectives that the
attack and the rest of the step issued.
"""

import sys

import torch
from torch import nn

from dat import models
from dat.methods.dat import DAT
from dat.methods.dat.method import DATMethod
from dat.methods.task import Task
from dat_engine.data import Batch
from dat_engine.distributed import end_process, join
from dat_engine.model.precision import Precision
from dat_engine.model.synchronised import synchronise_batchnorm
from dat_engine.profile.ranges import PREFIX
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.training_step import TrainingStep

SHAPE, CLASSES, GLOBAL_BATCH, STEPS = (3, 16, 16), 5, 8, 3


def share(values: torch.Tensor, rank: int, world_size: int) -> torch.Tensor:
    return values.chunk(world_size)[rank]


def main(output: str, update: str, precision: str) -> None:
    torch.set_num_threads(1)
    processes = join("cpu")
    policy = Precision(name=precision)
    torch.manual_seed(0)
    model = models.build("resnet8", num_classes=CLASSES, width=4).to(policy.dtype)
    task = Task(num_classes=CLASSES, image_shape=SHAPE, epsilon=8 / 255)
    optimizer = SGDSettings(learning_rate=0.002)  # in float32 sign ascent amplifies the last bit by this rate
    method = DATMethod(DAT(generator_update=update, generator_optimizer=optimizer), task)
    method.generator.to(policy.dtype)
    if processes.world_size > 1:
        synchronise_batchnorm(model)
        synchronise_batchnorm(method.generator)
    step = TrainingStep(
        model,
        method,
        optimizer=optimizer,
        precision=policy,
        update=update,
        processes=processes,
    )
    generator = torch.Generator().manual_seed(1)
    losses = []
    collectives = {"attack": 0, "rest": 0}
    for _ in range(STEPS):
        coarse = torch.rand(GLOBAL_BATCH, 3, 4, 4, generator=generator, dtype=policy.dtype)
        images = nn.functional.interpolate(coarse, SHAPE[1:], mode="bilinear")
        whole = Batch(
            images=images,
            originals=images.flip(3),
            targets=torch.randint(0, CLASSES, (GLOBAL_BATCH,), generator=generator),
            indices=torch.arange(GLOBAL_BATCH),
        )
        noise = dict(method.draw_noise(whole, generator))
        noise.pop(
            "start"
        )  # of a seed, every process makes noise for its own images: the whole's, in order, is shared out
        starts = 0.001 * torch.randn(2, *images.shape, generator=generator, dtype=policy.dtype)
        place = (processes.rank, processes.world_size)
        own = Batch(
            **{name: share(getattr(whole, name), *place) for name in ("images", "originals", "targets", "indices")}
        )
        own_noise = {name: share(value, *place) for name, value in noise.items()}
        own_noise["start"] = torch.cat([share(start, *place) for start in starts])
        with torch.profiler.profile() as profile:
            metrics = step(own, own_noise)
        count_collectives(profile, collectives)
        losses.append(processes.total({"loss": float(metrics["loss"])})["loss"] / processes.world_size)
    if processes.is_main:
        state = {
            **model.state_dict(),
            **{f"psi.{name}": value for name, value in method.generator.state_dict().items()},
        }
        torch.save({"losses": losses, "state": state, "collectives": collectives}, output)
    end_process()


def count_collectives(profile: torch.profiler.profile, counts: dict[str, int]) -> None:
    events = profile.events()
    attacks = [event.time_range for event in events if event.name == f"{PREFIX}attack"]
    for event in events:
        if event.name.startswith("c10d::"):
            inside = any(attack.start <= event.time_range.start <= attack.end for attack in attacks)
            counts["attack" if inside else "rest"] += 1


main(*sys.argv[1:])
