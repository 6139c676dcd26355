"""The simulated shops: customers who hear only text, the public catalogue, two ears, the bounds, and one book a shop."""
