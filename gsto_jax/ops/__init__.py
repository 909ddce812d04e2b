"""Functions of arrays: resize, resampling, BN, packed maps, flips, dispatch to implementations."""
