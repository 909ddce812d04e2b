"""Functions of arrays that the layers share: BN, sums over pixels, packed maps."""
