"""Hosts of TPU slices as processes on CPUs: all before the TPU runtime starts is as on a TPU."""

import contextlib

from tests import program

ON_TPU_HOST = """
import os, runpy, sys
import jax
os.environ.pop("TPU_SKIP_MDS_QUERY", None)  # JAX sets it here, where there are no chips
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start(environment, *args):
    """Starts the program on a TPU host that has these variables."""
    return program.start_python(
        ["-c", ON_TPU_HOST, program.ROOT / "main.py", *args],
        environment=program.environment() | {"JAX_FORCE_TPU_INIT": "1"} | environment,
    )


def run(environments, *args):
    """Runs the same command in each environment; returns status, output and errors of each."""
    return program.finish([start(environment, *args) for environment in environments])


def gke(port, **variables):
    """Returns variables of a host, as GKE sets them."""
    variables = {name: str(value) for name, value in variables.items()}
    return {"JAX_COORDINATOR_PORT": str(port), "TPU_SKIP_MDS_QUERY": "true"} | variables


@contextlib.contextmanager
def slices_on_gke(ids=(0, 1), count=2):
    """Yields the environments of slices of one host each."""
    port = program.free_port()
    yield [
        gke(
            port,
            TPU_WORKER_HOSTNAMES="localhost",
            TPU_WORKER_ID=0,
            MEGASCALE_COORDINATOR_ADDRESS="localhost",
            MEGASCALE_NUM_SLICES=count,
            MEGASCALE_SLICE_ID=slice_id,
        )
        for slice_id in ids
    ]
