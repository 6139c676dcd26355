"""What all checks use: the comparison that says what to read, and how examples are searched."""
from __future__ import annotations

import numpy as np
from hypothesis import Phase, settings

# settings of the property checks: the same examples every time, shrunk to the simplest failure
patient = settings(max_examples=80, deadline=None, derandomize=True, database=None,
                   report_multiple_bugs=False, phases=[Phase.generate, Phase.shrink])


def same(got, wanted, hint, tolerance=1e-6):
    """Fails with both numbers and with what to read."""
    assert got is not None, f"your function returns None: is there a `return`?  {hint}"
    mine = np.asarray(got, float)
    right = np.asarray(wanted, float)
    assert mine.shape == right.shape, (
        f"you return the shape {mine.shape}, it should be {right.shape}.  {hint}"
    )
    assert np.allclose(mine, right, rtol=tolerance, atol=tolerance), (
        f"you return {mine.tolist()}, it should be {right.tolist()}.  {hint}"
    )
