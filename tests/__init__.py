"""Tests of everything but the core, which test_gopo.py has."""
