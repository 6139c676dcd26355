"""What GOPO is compared with: each file is one method, most of them a subclass of gopo.Gopo."""
