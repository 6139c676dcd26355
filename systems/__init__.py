"""The sister papers, one file each, on GOPO's loop."""
