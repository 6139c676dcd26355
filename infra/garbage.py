"""Python's garbage collector, and what it need not look at.

Once in a while the collector walks through every object there is.  A dataset and the caches are
hundreds of thousands of objects, and a walk takes as long as a hundred turns of a dialogue."""
from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def long_lived() -> Iterator[None]:
    """Inside, the collector leaves out what existed before.  What nobody holds is still freed."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def main() -> None:
    with long_lived():
        print(f"{gc.get_freeze_count()} objects are left out, {len(gc.get_objects())} are not")


if __name__ == "__main__":
    main()
