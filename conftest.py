"""For all tests: no example of hypothesis fails for being slow on a busy machine."""
from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
