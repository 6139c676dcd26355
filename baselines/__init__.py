"""What GOPO is compared with: each file one method, a subclass of gopo.Gopo."""
