"""Training in many processes, started by torchrun: who is who, and what they tell each other outside the step."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous

from dat_engine.errors import RunFailedError, UserError

TIMEOUT = timedelta(minutes=10)


class ProcessesError(RuntimeError):
    """Another process of the run has died or cannot be reached."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """This process among those of the run; the default is a run of one process, in which nothing is exchanged.

    With many processes every method that exchanges something must be called by all of them, in the same order. What is
    exchanged travels over `control`, a gloo group on the host, so that it never waits in the device's queue.
    """

    rank: int = 0
    world_size: int = 1
    restarts: int = 0
    """How often torchrun has started the run's processes anew after one of them died."""
    control: distributed.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """The one process that writes."""
        return self.rank == 0

    def total(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sum of each value over the processes, in float64."""
        if self.world_size == 1:
            return dict(values)
        sums = torch.tensor([values[name] for name in sorted(values)], dtype=torch.float64)
        self._exchange(lambda: distributed.all_reduce(sums, group=self.control))
        return dict(zip(sorted(values), sums.tolist(), strict=True))

    def gather(self, state: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The (nested) dictionaries of tensors of every process, in the order of ranks, on the CPU."""
        own = _on_cpu(state)
        if self.world_size == 1:
            return [own]
        everyone: list[Any] = [None] * self.world_size
        self._exchange(lambda: distributed.all_gather_object(everyone, own, group=self.control))
        return everyone

    @torch.no_grad()
    def average_(self, tensors: Mapping[str, Tensor]) -> None:
        """Give every process the mean of all processes' tensors, in place and by name."""
        if self.world_size == 1:
            return
        everyone = self.gather(tensors)
        for name, tensor in tensors.items():
            tensor.copy_(torch.stack([part[name] for part in everyone]).mean(dim=0))

    def barrier(self) -> None:
        """Wait for the others."""
        if self.world_size > 1:
            self._exchange(lambda: distributed.barrier(group=self.control))

    @contextlib.contextmanager
    def failing_together(self) -> Iterator[None]:
        """Around what each process does by itself and one alone may have to refuse: a file that is damaged, a label.

        On leaving, the processes tell each other whether they got through. Where one did not, none goes on to an exchange
        in which it would wait for the others, or they for it. Nothing may be exchanged inside.

        Raises:
            UserError, RunFailedError: this process's own, or, where this one got through, one of the same kind and with the
                sentence of the first that did not.
        """
        failure: UserError | RunFailedError | None = None
        try:
            yield
        except (UserError, RunFailedError) as error:
            failure = error
        if self.total({"failed": failure is not None})["failed"]:
            self._raise_first(failure)

    def _raise_first(self, own: UserError | RunFailedError | None) -> NoReturn:
        if own is not None and self.world_size == 1:
            raise own
        told: list[Any] = [None] * self.world_size
        mine = None if own is None else (type(own), str(own))
        self._exchange(lambda: distributed.all_gather_object(told, mine, group=self.control))
        if own is not None:
            raise own
        kind, sentence = next(answer for answer in told if answer is not None)
        raise kind(sentence)

    def distribute(self, module: nn.Module) -> nn.Module:
        """`module` under DistributedDataParallel; its buffers stay each process's own."""
        devices = None
        device = next(module.parameters()).device
        if device.type == "cuda":
            devices = [device.index if device.index is not None else torch.cuda.current_device()]
        with warnings.catch_warnings():
            # its successor, forward_sync_buffers, is not in the oldest torch that is supported
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            with self.exchanging():  # it compares the processes' parameters
                return nn.parallel.DistributedDataParallel(
                    module, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
                )

    @contextlib.contextmanager
    def exchanging(self) -> Iterator[None]:
        """Around what exchanges something with the others; nothing in a run of one.

        torch has error types of its own for a lost process (torch.distributed.DistError), gloo raises RuntimeError itself.
        Subclasses of any other kind, out of memory say, are this process's own and pass.

        Raises:
            ProcessesError: in place of these two.
        """
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not (isinstance(error, distributed.DistError) or type(error) is RuntimeError):
                raise
            raise ProcessesError(
                f"process {self.rank} of {self.world_size} lost another one ({(str(error).splitlines() or [''])[0][:200]})"
            ) from error

    def _exchange(self, call: Callable[[], object]) -> None:
        with self.exchanging():
            call()


ONE_PROCESS = Processes()


def join(device_type: str) -> Processes:
    """This process's place in the run that torchrun started; a run of one where torchrun did not.

    Raises:
        ProcessesError: the others cannot be reached.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Processes()
    backend = "nccl" if device_type == "cuda" else "gloo"
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    try:
        store, rank, world_size = next(rendezvous("env://", timeout=TIMEOUT))
        # torchrun's store outlives a restart: without a prefix the new processes may find the addresses of the dead ones
        fresh = distributed.PrefixStore(f"dat-engine/start-{restarts}", store)
        distributed.init_process_group(backend, store=fresh, rank=rank, world_size=world_size, timeout=TIMEOUT)
        control = cast(distributed.ProcessGroup, distributed.new_group(backend="gloo", timeout=TIMEOUT))
    except (RuntimeError, ValueError) as error:
        raise ProcessesError(f"cannot join the {world_size} processes of this run: {error}") from error
    return Processes(
        rank=distributed.get_rank(),
        world_size=world_size,
        restarts=restarts,
        control=control,
    )


def leave() -> None:
    """End the exchange; nothing happens in a run of one."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def end_process(code: int = 0) -> NoReturn:
    """Leave, and end this process without taking the interpreter apart; for the last line of a script under torchrun.

    gloo's threads hold the tensors of the last exchange for a moment after it is over, and one that lets go of them when Python
    has begun to shut down aborts the process (pytorch/pytorch, pull request 179291): torchrun then reports as failed what is
    complete. What is registered with `atexit` is not run.
    """
    leave()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError, ValueError):  # closed, by the shell or by its reader
            stream.flush()
    os._exit(code)


def _on_cpu(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _on_cpu(value) if isinstance(value, Mapping) else value.cpu() for name, value in state.items()}
