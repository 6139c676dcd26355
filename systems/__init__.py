"""The sister papers of GOPO, one file each, on the same loop."""
