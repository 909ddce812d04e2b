"""Random and fixed transforms of examples, one module per task."""
