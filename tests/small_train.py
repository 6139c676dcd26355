"""train.py on a smaller mgshop, for tests that start processes of their own."""
import sys

import train
from tests.conftest import small_shops

if __name__ == "__main__":
    with small_shops():
        sys.exit(train.main())
