"""What the garbage collector leaves out, and what a command imports before it knows its flags."""
import gc
import subprocess
import sys
import weakref

import pytest

from infra.garbage import long_lived


class Knot:
    """Holds itself: only the collector can free it."""

    def __init__(self):
        self.me = self


def test_what_existed_is_left_out_until_the_end():
    before = gc.get_freeze_count()
    with pytest.raises(KeyboardInterrupt), long_lived():
        assert gc.get_freeze_count() > before
        raise KeyboardInterrupt
    assert gc.get_freeze_count() == before


def test_what_comes_later_is_still_freed():
    with long_lived():
        knot = weakref.ref(Knot())
        gc.collect()
        assert knot() is None


def test_what_was_left_out_is_freed_afterwards():
    knot = Knot()
    seen = weakref.ref(knot)
    with long_lived():
        del knot
        gc.collect()
        assert seen() is not None
    gc.collect()
    assert seen() is None


@pytest.mark.parametrize("module", ["train", "eval"])
def test_commands_import_no_language_model_before_they_need_it(module):
    loaded = f"import sys, {module}; print(*[m for m in sys.modules if m == 'transformers'])"
    found = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True)
    assert (found.returncode, found.stdout.strip()) == (0, "")
