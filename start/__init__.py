"""Everything between the flags and the first GOPO step, the same for every method."""
