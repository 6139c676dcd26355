"""Runs the worked examples of modules, one after the other in one process.

A reader runs them one at a time, as in `python -m rewards`; here the import of torch, which is most
of each, is paid once.

Try it:  python -m tests.demos rewards tse shop.ear"""
from __future__ import annotations

import runpy
import sys
import warnings


def run(module: str) -> None:
    """One example, as `python -m MODULE` without flags; it ends well, or the process fails."""
    print(f"--- {module}", flush=True)
    sys.argv = [module]
    try:
        runpy.run_module(module, run_name="__main__")
    except SystemExit as done:
        if done.code:
            raise


if __name__ == "__main__":
    # an example that an earlier one has imported runs a second time: nothing to warn of
    warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)
    for name in sys.argv[1:]:
        run(name)
