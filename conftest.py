"""For all tests: patience on a busy machine, and the order in which files are begun."""
from importlib.util import find_spec

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

collect_ignore = []
if not find_spec("gymnasium"):                   # optional; shop.gym cannot be imported without it
    collect_ignore.append("shop/gym.py")

# Files of long tests, which two workers (`pytest -n 2 --dist loadfile --no-loadscope-reorder`) had
# better begin with: a long file that comes last keeps one of them waiting.
LONG = (
    "test_processes.py", "test_wide.py", "test_train.py", "test_ppo.py", "test_memory.py",
    "test_qlora.py", "test_practice.py", "test_hosted_runs.py", "test_multiwoz.py",
    "test_experiments.py", "test_train_lm.py", "test_conversations.py", "test_cmpo_runs.py",
)


def pytest_collection_modifyitems(items):
    """Long files first, in the order of LONG; the others stay as they are."""
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONG)))
