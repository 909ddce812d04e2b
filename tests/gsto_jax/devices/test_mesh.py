"""The data axis follows the processes, whatever order and slices the devices have."""

from dataclasses import dataclass

import numpy as np
import pytest
from jax.experimental import mesh_utils

from gsto_jax import UserError
from gsto_jax.devices.mesh import compiler_options, make_mesh
from gsto_jax.plan.targets import compile_target


@dataclass(frozen=True)
class Device:
    """A device of a host with two, of which two make a slice."""

    id: int
    platform: str = "cpu"
    device_kind: str = "cpu"

    @property
    def process_index(self):
        return self.id // 2

    @property
    def slice_index(self):
        return self.id // 4


def indices(mesh, name="process_index"):
    return np.vectorize(lambda device: getattr(device, name))(mesh.devices).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_processes_follow_each_other(seed):
    devices = np.random.default_rng(seed).permutation([Device(k) for k in range(8)]).tolist()
    mesh = make_mesh(devices)
    assert indices(mesh) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert indices(mesh, "slice_index") == [0] * 4 + [1] * 4
    mesh = make_mesh(devices, spatial_shards=2)
    assert indices(mesh, "id") == [[0, 1], [2, 3], [4, 5], [6, 7]]
    with pytest.raises(UserError, match=r"spatial_shards .* 2 devices of a process; got 4"):
        make_mesh(devices, spatial_shards=4)


def tpu_devices(topology):
    """Returns the devices of TPU slices, which need not be present, in the order of their ids."""
    return sorted(compile_target(topology).mesh.devices.flat, key=lambda device: device.id)


@pytest.mark.slow
def test_slice_whose_links_do_not_follow_its_processes(libtpu):
    devices = tpu_devices("v5e:4x4")
    along_links = mesh_utils.create_device_mesh((16,), devices, allow_split_physical_axes=True)
    processes = [device.process_index for device in along_links]
    assert processes != sorted(processes)
    mesh = make_mesh(devices)
    assert indices(mesh) == sorted(processes)
    for process in range(4):  # within a host the chips keep the order of their links
        chips = [d.id for d in along_links if d.process_index == process]
        assert [d.id for d in mesh.devices if d.process_index == process] == chips


@pytest.mark.slow
@pytest.mark.parametrize("spatial_shards", [1, 2, 4])
def test_data_spans_slices_and_space_stays_in_a_host(libtpu, spatial_shards):
    mesh = make_mesh(tpu_devices("v5e:4x4*2"), spatial_shards)
    assert mesh.shape["data"] == 32 // spatial_shards
    assert np.ravel(indices(mesh, "slice_index")).tolist() == [0] * 16 + [1] * 16
    assert np.ravel(indices(mesh)).tolist() == np.repeat(np.arange(8), 4).tolist()
    if spatial_shards > 1:
        assert all(len(set(row)) == 1 for row in indices(mesh))
    else:  # the slices are those of JAX's mesh for several slices
        hybrid = mesh_utils.create_hybrid_device_mesh((16,), (2,), list(mesh.devices))
        assert {d.id for d in hybrid[:16]} == {d.id for d in mesh.devices[:16]}


def test_space_to_batch_is_disabled_in_train_steps_only(libtpu):
    mesh = compile_target("v5e:2x2").mesh
    assert set((compiler_options(mesh, train=True) or {}).values()) == {"false"}
    assert compiler_options(mesh) is None
