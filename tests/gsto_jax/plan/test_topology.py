"""Names of topologies, and the devices that libtpu has for them."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from gsto_jax import UserError
from gsto_jax.plan.chips import TPUS
from gsto_jax.plan.topology import Topology, accelerator_types, parse_topology
from gsto_jax.training.throughput import PEAK_FLOPS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v5e:4x4", Topology("v5e", (4, 4))),
        ("v5e:4x4*2", Topology("v5e", (4, 4), 2)),
        ("v5litepod-16", Topology("v5e", (4, 4))),
        ("v5litepod-1", Topology("v5e", (1, 1))),
        ("v6e-8", Topology("v6e", (2, 4))),
        ("v6e-256*3", Topology("v6e", (16, 16), 3)),
        ("v4-8", Topology("v4", (2, 2, 1))),
        ("v5p-16", Topology("v5p", (2, 2, 2))),  # cores
        ("v5p-128", Topology("v5p", (4, 4, 4))),
        ("tpu7x-16", Topology("tpu7x", (2, 2, 2))),  # cores
        ("tpu7x-2", Topology("tpu7x", (1, 1, 1))),
        ("TPU7x:2x2x1", Topology("tpu7x", (2, 2, 1))),
        ("v5p:4x4x12", Topology("v5p", (4, 4, 12))),
        ("h100", Topology("h100", (1,))),
        ("h100:8", Topology("h100", (8,))),
        ("a100:2x8", Topology("a100", (2, 8))),
    ],
)
def test_valid_names(text, expected):
    topology = parse_topology(text)
    assert topology == expected
    assert parse_topology(topology.slice_name).grid == topology.grid


@pytest.mark.parametrize(
    "text",
    [
        *("", "v5e", "v7:2x2", "v5e:", "v5e:4x4x4", "v5p:4x4", "v5e:4x-4", "v5e:0x4", "v5e:4x4*"),
        *("v5e:4x4*0", "v5e:4x4*two", "v5e:4x4*2*2", "v5litepod-5", "v5e-16", "v5p-4", "v6e-16x"),
        *("h100:0", "h100:2x2x2", "h100:x", "h100:8*2", "v5e:²x4", "v5e:9999999999x1"),
    ],
)
def test_invalid_names_are_answered_with_the_valid_ones(text):
    with pytest.raises(UserError, match="topology must be") as error:
        parse_topology(text)
    for name in ("v5e:2x2", "v5e:4x4*2", "v5litepod-1/4/8/16", "v5p-8/16", "tpu7x-2/8", "h100:8"):
        assert name in str(error.value)


def test_accelerator_types_count_chips_or_cores():
    for name, topology in accelerator_types().items():
        prefix, _, count = name.partition("-")
        parsed = parse_topology(topology)
        cores = 2 if prefix in ("v4", "v5p", "tpu7x") else 1
        assert parsed.num_chips * cores == int(count)


def test_peaks_match_the_clocks():
    """Matrix units of 128x128, or 256x256 from v6e on, multiply and add once a cycle."""
    units = {
        "v4": ("TPU v4", 8 * 128**2),
        "v5e": ("TPU v5 lite", 4 * 128**2),
        "v5p": ("TPU v5", 8 * 128**2),
        "v6e": ("TPU v6 lite", 4 * 256**2),
        "tpu7x": ("TPU7x", 4 * 256**2),
    }
    assert set(units) == set(TPUS)
    for chip, (kind, multipliers) in units.items():
        assert 2e9 * TPUS[chip].clock * multipliers == pytest.approx(PEAK_FLOPS[kind], rel=0.01)


_DEVICES = """
import jax
jax.config.update("jax_platforms", "cpu")
from gsto_jax.plan.targets import compile_target
for name in ("v4-8", "v5p:2x2x1", "tpu7x-8", "tpu7x-2", "v6e-1", "v5litepod-16*2"):
    devices = list(compile_target(name).mesh.devices.flat)
    hosts = len({x.process_index for x in devices})
    print(name, len(devices), devices[0].num_cores, hosts, devices[0].device_kind, sep=",")
"""


def test_devices_of_libtpu(tmp_path):
    """Chips of v4 and v5p are one device of two cores, TPU7x's are two devices."""
    folder = os.environ.get("GSTO_LIBTPU", "")
    if not folder and find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed, and GSTO_LIBTPU names no folder that holds it")
    path = os.pathsep.join(filter(None, (folder, *sys.path)))
    result = subprocess.run(
        [sys.executable, "-c", _DEVICES],
        env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split("\n")[:-1] == [
        "v4-8,4,2,1,TPU v4",
        "v5p:2x2x1,4,2,1,TPU v5",
        "tpu7x-8,8,1,1,TPU7x",
        "tpu7x-2,2,1,1,TPU7x",
        "v6e-1,1,1,1,TPU v6 lite",
        "v5litepod-16*2,32,1,8,TPU v5 lite",
    ]
