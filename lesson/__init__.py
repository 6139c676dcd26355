"""Five functions to write yourself, and their checks."""
