"""Where a run computes: on the CPU, on a GPU of NVIDIA (cuda) or of Apple (mps).

Apple's have been guarded, not tried: none was at hand.  They know no doubles, so what must be exact
is computed on the CPU there (`exact`)."""
from __future__ import annotations

import torch
from torch import Tensor

from data import DataError

FIND = {"cuda": "a PyTorch built for your GPU", "mps": "a PyTorch for macOS on Apple silicon"}


def is_there(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_available()
    if device == "mps":
        return torch.backends.mps.is_available()
    return True


def picked(device: str) -> str:
    """`auto` as what it stands for; the others as they are.  Apple's GPU must be asked for."""
    if device != "auto":
        return device
    return "cuda" if is_there("cuda") else "cpu"


def here(device: str) -> str:
    """The device of a run, or the CPU where there is no such device."""
    device = picked(device)
    return device if is_there(device) else "cpu"


def refuse_absent(device: str) -> None:
    """DataError if PyTorch finds no such device here."""
    if not is_there(device):
        raise DataError(
            f"--device {device}: PyTorch finds no GPU of this kind here; take --device cpu, or "
            f"{FIND[device]}")


def refuse_unsuited(device: str, precision: str, quantise: str, algo: str) -> None:
    """DataError about what Apple's GPU cannot do, or what nobody has tried on one."""
    if device != "mps":
        return
    wrong = None
    if precision == "bf16":
        wrong = "--precision bf16: take fp32"
    elif quantise == "nf4":
        wrong = "4-bit weights: take --quantise none, or --device cpu"
    elif algo == "memento":
        wrong = "--algo memento, which computes in doubles: take --device cpu"
    if wrong:
        raise DataError(f"--device mps does not go with {wrong}")


def exact(x: Tensor) -> Tensor:
    """In doubles; where the device has none, on the CPU."""
    return (x.cpu() if x.device.type == "mps" else x).double()
