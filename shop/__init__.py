"""Simulated shops: customers who hear only text, a public catalogue, two ears, bounds, books."""
