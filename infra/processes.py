"""Several processes, one training: `accelerate launch --multi_gpu --num_processes 2 train.py ...`, on GPUs or on CPUs.

Each process plays its share of the dialogues of a step.  Losses are divided by the number of tokens, turns or picks of *all* processes,
so the gradients, summed over the processes, are those of one process with the whole batch; every process then takes the same step.
One process writes files, and what it decides (the run directory, whether a stage is done) the others are told.
Alone, every function here costs nothing and changes nothing.
Try it:  python -m infra.processes                                                     one process
         accelerate launch --multi_gpu --num_processes 2 -m infra.processes            two (on CPUs too: it is accelerate's word for several)"""
from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

T = TypeVar("T")


def world_size() -> int:
    """How many processes a launcher started, known before they have met."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """True for the one process that writes; known before they have met."""
    return int(os.environ.get("RANK", "0")) == 0


def join(device: str) -> None:
    """Joins the processes of one launch: gloo on CPUs, NCCL on GPUs, one GPU each."""
    if world_size() > 1:
        from accelerate import PartialState
        PartialState(cpu=device == "cpu", timeout=timedelta(hours=6))    # the others wait while the first evaluates, with a slow judge for long


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def is_parallel() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


def shard(items: Sequence[T]) -> Sequence[T]:
    """This process's part: every size-th item, beginning with its own number.

    >>> shard([4, 5, 6])
    [4, 5, 6]
    """
    return items[dist.get_rank()::dist.get_world_size()] if is_parallel() else items


def all_sum(*values: float) -> list[float]:
    """Each value summed over the processes.

    >>> all_sum(1.0, 2.5)
    [1.0, 2.5]
    """
    if not is_parallel():
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64, device=_device())
    dist.all_reduce(sums)
    return sums.tolist()


def all_mean(values: Iterable[float]) -> float | None:
    """Mean over the values of all processes; None if there is none.

    >>> all_mean([1.0, 2.0]), all_mean([])
    (1.5, None)
    """
    values = list(values)
    summed, count = all_sum(float(sum(values)), len(values))
    return summed / count if count else None


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Adds the gradients of all processes, in place; a process that had nothing to learn from adds zero."""
    if not is_parallel():
        return
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        dist.all_reduce(p.grad)


def broadcast(text: str = "") -> str:
    """What the first process says, to all."""
    if not is_parallel():
        return text
    said = text.encode()
    length = int(all_sum(len(said) if is_main() else 0)[0])
    letters = torch.zeros(length, dtype=torch.uint8, device=_device())
    if is_main():
        letters = torch.tensor(list(said), dtype=torch.uint8, device=_device())
    dist.broadcast(letters, 0)
    return bytes(letters.tolist()).decode()


def main_says(condition: bool) -> bool:
    """The first process's answer, for all."""
    return broadcast("yes" if condition else "") == "yes"


def barrier() -> None:
    """Until all are here."""
    if is_parallel():
        dist.barrier()


def any_process(condition: bool) -> bool:
    """Whether it is true in any process."""
    return all_sum(float(condition))[0] > 0


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


if __name__ == "__main__":
    join("cpu")
    print(f"process {dist.get_rank() if is_parallel() else 0} of {world_size()}: my share of 0..4 is {list(shard(range(5)))}, "
          f"the mean of all shares {all_mean(shard(range(5)))}, told {broadcast('hello' if is_main() else '')!r}")
    leave()
