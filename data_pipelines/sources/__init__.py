"""Random access to the examples of a dataset, and checks of them."""
