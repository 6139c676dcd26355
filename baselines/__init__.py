"""What GOPO is compared with: each method has a file of its name.

All but the prompted Expert, which learns nothing, are subclasses of gopo.Gopo."""
