"""Array functions: resizing, BN, packed maps, padding, flips, and dispatch to implementations."""
