"""What GOPO is compared with: each method is a subclass of gopo.Gopo, in a file of its name."""
