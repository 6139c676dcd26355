"""In which precision a machine computes: "bf16" or "fp32".  No model, no transformers."""
from __future__ import annotations

from pathlib import Path

import torch

# Of a CPU that multiplies in bf16; without one of them bf16 is slower than fp32.
BF16 = {"avx512_bf16", "amx_bf16"}
CPUINFO = Path("/proc/cpuinfo")


def pick_precision(device: str | torch.device = "cpu") -> str:
    """"bf16" where the GPU or the CPU computes in it, else "fp32".

    A property of the machine, never a timing: two runs of one command must choose alike, whatever
    else the machine is doing.
    """
    if torch.device(device).type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if supported else "fp32"
    return "bf16" if BF16 & cpu_flags() else "fp32"


def cpu_flags() -> set[str]:
    """What this CPU can do, in the words of Linux; empty where nothing tells."""
    if not CPUINFO.exists():
        return set()
    for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, words = line.partition(":")
        if name.strip() == "flags":
            return set(words.split())
    return set()


if __name__ == "__main__":
    print(f"--precision auto is {pick_precision()} on this CPU")
