"""Several processes, one training: `accelerate launch --multi_gpu --num_processes 2 train.py ...`, on GPUs or on CPUs.

Each process plays its share of the dialogues of a step.  Losses are divided by the number of tokens, turns or picks of *all* processes,
so the gradients, summed over the processes, are those of one process with the whole batch; every process then takes the same step.
One process writes files, and what it decides (the run directory, whether a stage is done) the others are told.
Alone, every function here costs nothing and changes nothing.
Try it:  python parallel.py                                                     one process
         accelerate launch --multi_gpu --num_processes 2 parallel.py            two (on CPUs too: it is accelerate's word for several)"""
from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

T = TypeVar("T")


def launched() -> int:
    """How many processes a launcher started, known before they have met."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first() -> bool:
    """True for the one process that writes; known before they have met."""
    return int(os.environ.get("RANK", "0")) == 0


def meet(device: str) -> None:
    """Joins the processes of one launch: gloo on CPUs, NCCL on GPUs, one GPU each."""
    if launched() > 1:
        from accelerate import PartialState
        PartialState(cpu=device == "cpu", timeout=timedelta(hours=6))    # the others wait while the first evaluates, with a slow judge for long


def part() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def together() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


def share(items: Sequence[T]) -> Sequence[T]:
    """This process's part: every size-th item, beginning with its own number.

    >>> share([4, 5, 6])
    [4, 5, 6]
    """
    return items[dist.get_rank()::dist.get_world_size()] if together() else items


def total(*values: float) -> list[float]:
    """Each value summed over the processes.

    >>> total(1.0, 2.5)
    [1.0, 2.5]
    """
    if not together():
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64, device=_device())
    dist.all_reduce(sums)
    return sums.tolist()


def mean(values: Iterable[float]) -> float | None:
    """Mean over the values of all processes; None if there is none.

    >>> mean([1.0, 2.0]), mean([])
    (1.5, None)
    """
    values = list(values)
    summed, count = total(float(sum(values)), len(values))
    return summed / count if count else None


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Adds the gradients of all processes, in place; a process that had nothing to learn from adds zero."""
    if not together():
        return
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        dist.all_reduce(p.grad)


def told(text: str = "") -> str:
    """What the first process says, to all."""
    if not together():
        return text
    said = text.encode()
    length = int(total(len(said) if first() else 0)[0])
    letters = torch.zeros(length, dtype=torch.uint8, device=_device())
    if first():
        letters = torch.tensor(list(said), dtype=torch.uint8, device=_device())
    dist.broadcast(letters, 0)
    return bytes(letters.tolist()).decode()


def agreed(condition: bool) -> bool:
    """The first process's answer, for all."""
    return told("yes" if condition else "") == "yes"


def wait() -> None:
    """Until all are here."""
    if together():
        dist.barrier()


def any_of(condition: bool) -> bool:
    """Whether it is true in any process."""
    return total(float(condition))[0] > 0


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


if __name__ == "__main__":
    meet("cpu")
    print(f"process {dist.get_rank() if together() else 0} of {launched()}: my share of 0..4 is {list(share(range(5)))}, "
          f"the mean of all shares {mean(share(range(5)))}, told {told('hello' if first() else '')!r}")
    part()
