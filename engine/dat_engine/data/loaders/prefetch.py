"""The next batch is made on a side stream while the present step runs."""

from collections.abc import Iterator
from dataclasses import fields

import torch

from dat_engine.data.batch import Batch
from dat_engine.profile.ranges import named_range

__all__ = ["prefetched"]


def prefetched(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield the same batches in the same order; on a GPU each one is enqueued a step ahead, on a stream of its own.

    Making a batch is the phase "data" of a profile.
    """
    if device.type != "cuda":
        while (batch := _next(batches)) is not None:
            yield batch
        return
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    following = _next_on(side, batches)
    while following is not None:
        here = torch.cuda.current_stream(device)
        here.wait_stream(side)
        batch = following
        for field in fields(batch):
            tensor = getattr(batch, field.name)
            if tensor is not None:
                tensor.record_stream(here)
        following = _next_on(side, batches)
        yield batch


def _next_on(stream: torch.cuda.Stream, batches: Iterator[Batch]) -> Batch | None:
    with torch.cuda.stream(stream):
        return _next(batches)


def _next(batches: Iterator[Batch]) -> Batch | None:
    with named_range("data"):
        return next(batches, None)
