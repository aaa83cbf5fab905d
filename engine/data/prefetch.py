"""The next batch is made on a side stream while the present step runs."""

from collections.abc import Iterator
from dataclasses import fields

import torch

from engine.data.batch import Batch

__all__ = ["prefetched"]


def prefetched(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield the same batches in the same order; on a GPU each one is enqueued a step ahead, on a stream of its own."""
    if device.type != "cuda":
        yield from batches
        return
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    following = _next(batches, side)
    while following is not None:
        here = torch.cuda.current_stream(device)
        here.wait_stream(side)
        batch = following
        for field in fields(batch):
            getattr(batch, field.name).record_stream(here)
        following = _next(batches, side)
        yield batch


def _next(batches: Iterator[Batch], stream: torch.cuda.Stream) -> Batch | None:
    with torch.cuda.stream(stream):
        return next(batches, None)
