"""The batches of an evaluation, one after the other, with a look round between two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dat.evaluation.images import NumberedBatch
from dat_engine.distributed import Processes
from dat_engine.run.stop import Stop, Stopped


def in_rounds(
    batches: Iterator[NumberedBatch], take: Callable[[NumberedBatch], None], processes: Processes, stop: Stop | None
) -> None:
    """Call `take` on every batch, as many processes side by side as there are.

    Shares differ by an image, and damaged files are left out, so processes run out at different times: each keeps answering
    until the last has. What one refuses, a batch or what `take` makes of it, all of them do, at the end of that round.

    Raises:
        Stopped: before a batch, in every process, where `stop` has a reason in one of them; after the last batch nobody looks.
        UserError: of `batches` and `take`, this process's or another's.
    """
    while True:
        reason = None if stop is None else stop.reason
        with processes.failing_together():
            batch = next(batches, None)
        answers = processes.total(
            {"signal": reason == "signal", "time limit": reason == "time limit", "more": batch is not None}
        )
        if not answers["more"]:
            return
        if answers["signal"] or answers["time limit"]:
            raise Stopped("signal" if answers["signal"] else "time limit")
        with processes.failing_together():
            if batch is not None:
                take(batch)
