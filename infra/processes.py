"""One training in several processes, on GPUs or on CPUs.

Each process plays its shard of the dialogues of a step.  The losses are divided by the number of
tokens, turns or picks of *all* processes.  The gradients, summed over the processes, are therefore
those of one process with the whole batch, and every process takes the same optimiser step.
The main process writes all files.  What it decides, such as the run directory or whether a stage
is done, it broadcasts to the others.
With a single process, every function here costs nothing and changes nothing.
Try it:
    python -m infra.processes
    accelerate launch --multi_gpu --num_processes 2 -m infra.processes
(`--multi_gpu` is accelerate's flag for several processes, on CPUs as well.)"""
from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from data import DataError

T = TypeVar("T")

# How long a process waits for the others: they wait while the main process evaluates, and a slow
# judge makes that long.
LONGEST_WAIT = timedelta(hours=6)


def world_size() -> int:
    """The number of processes that the launcher started; known before `join`."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that writes files; known before `join`."""
    return int(os.environ.get("RANK", "0")) == 0


def join(device: str) -> None:
    """Connects the processes of one launch: with gloo on CPUs, with NCCL on GPUs, one GPU each."""
    if world_size() > 1 and device == "mps":
        raise DataError("--device mps is one GPU: start a single process, or take --device cpu")
    if world_size() > 1:
        # imported here: a single process does without it
        from accelerate import PartialState
        PartialState(cpu=device == "cpu", timeout=LONGEST_WAIT)


def leave() -> None:
    """Disconnects this process from the others, which it no longer waits for."""
    if dist.is_initialized():
        dist.destroy_process_group()


def is_parallel() -> bool:
    """Whether several processes are connected now: after `join` and before `leave`."""
    return dist.is_initialized() and dist.get_world_size() > 1


def shard(items: Sequence[T]) -> Sequence[T]:
    """The items of this process: of n processes, process r has items r, r + n, r + 2n, ...

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
    """The mean over the values of all processes; None if no process has a value.

    >>> all_mean([1.0, 2.0]), all_mean([])
    (1.5, None)
    """
    values = list(values)
    summed, count = all_sum(float(sum(values)), len(values))
    return summed / count if count else None


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Replaces each gradient by its sum over the processes; one that has no gradient adds zero."""
    if not is_parallel():
        return
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        dist.all_reduce(p.grad)


def broadcast(text: str = "") -> str:
    """The main process's text, returned in every process."""
    if not is_parallel():
        return text
    sent = text.encode() if is_main() else b""
    # all need the length first, to make room; the others add 0 to it
    length = int(all_sum(len(sent))[0])
    received = torch.zeros(length, dtype=torch.uint8, device=_device())
    if is_main():
        received = torch.tensor(list(sent), dtype=torch.uint8, device=_device())
    dist.broadcast(received, 0)
    return bytes(received.tolist()).decode()


def main_says(condition: bool) -> bool:
    """The main process's condition, returned in every process."""
    answer = "yes" if condition else ""
    return broadcast(answer) == "yes"


def barrier() -> None:
    """Returns when every process has called it."""
    if is_parallel():
        dist.barrier()


def any_process(condition: bool) -> bool:
    """Whether the condition holds in at least one process."""
    return all_sum(float(condition))[0] > 0


def _device() -> torch.device:
    """Where tensors have to lie that the processes exchange."""
    name = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return torch.device(name)


def _demo() -> None:
    join("cpu")
    rank = dist.get_rank() if is_parallel() else 0
    mine = list(shard(range(5)))
    mean = all_mean(mine)
    greeting = "hello" if is_main() else ""
    print(f"process {rank} of {world_size()}: my shard of 0..4 is {mine}, "
          f"the mean over all shards {mean}, the main process says {broadcast(greeting)!r}")
    leave()


if __name__ == "__main__":
    _demo()
