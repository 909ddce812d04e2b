"""Prints every table of the paper that has counts: ours, exact, beside theirs. Needs no data."""

from typing import Any

import jax

from gsto_jax import reporting
from gsto_jax.tables import paper_tables
from modes.terminal import make_show


def run(args: Any) -> None:
    """Counts every network of the tables."""
    jax.config.update("jax_platforms", "cpu")  # nothing is computed
    show = make_show()
    show(
        "conv, conv+BN   parameters of convolutions, and those with BN's scales and biases\n"
        "MACs            weights times output pixels of every convolution that runs\n"
        "paper           its #Param (with BN's for poses) / its GFLOPs, which are MACs / 2^30\n"
    )
    with reporting.stage("counting the paper's networks"):
        for table in paper_tables():
            show(table)
