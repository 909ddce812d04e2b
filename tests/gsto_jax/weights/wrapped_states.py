"""State dicts as other libraries save them, and networks that load them."""

import collections
import io
import pickle
import sys
import types

import jax
import numpy as np
import pytest

from gsto_jax import GSTOSpec
from gsto_jax.weights import HRNET_FORMAT, locate_network, to_state_dict
from tests.gsto_jax.weight_states import network, shapes_of, torch_zip

SEGMENTATION, POSE = network(), network(classes=17, head="v1", upsample="nearest")


GSTO_POSE = network(GSTOSpec(), classes=17)


def blank(model):
    return jax.tree.map(lambda leaf: np.full(leaf.shape, 7, leaf.dtype), shapes_of(model))


def add_prefix(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


def save_torch(path, tree):
    """Writes nested dictionaries of float32 arrays as `torch.save` does, without PyTorch."""
    modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils")}

    def rebuild():
        """Stand-in for `torch._utils._rebuild_tensor_v2`."""

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    kind = type("FloatStorage", (), {"__module__": "torch"})
    modules["torch._utils"]._rebuild_tensor_v2, modules["torch"].FloatStorage = rebuild, kind
    storages = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if not isinstance(value, Storage):
                return None
            return ("storage", kind, value.key, "cpu", value.size)

        def reducer_override(self, value):
            if not isinstance(value, np.ndarray):
                return NotImplemented
            storages.append(np.ascontiguousarray(value, np.float32))
            strides = tuple(np.cumprod((1, *value.shape[:0:-1]))[::-1].tolist()[: value.ndim])
            storage = Storage(str(len(storages) - 1), value.size)
            hooks = collections.OrderedDict()
            return rebuild, (storage, 0, value.shape, strides, False, hooks)

    stream = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        Pickler(stream, 2).dump(tree)
    data = {f"s{n}": storage.tobytes() for n, storage in enumerate(storages)}
    return torch_zip(path, stream.getvalue(), **data)


Storage = collections.namedtuple("Storage", ["key", "size"])


def assert_loaded(imported, expected, weight_format=HRNET_FORMAT):
    """Asserts that the network has the arrays of a state."""
    filled = to_state_dict(imported.variables, weight_format)
    assert expected.keys() <= filled.keys() and len(expected) > 50
    for key, value in expected.items():
        np.testing.assert_array_equal(filled[key], value, err_msg=key)


def names_of(groups):
    return {name for names in groups.values() for name in names}


def from_state(state, model):
    from gsto_jax.weights import detect_format, from_state_dict

    network = locate_network(state, shapes_of(model))
    return from_state_dict(network.state_dict, blank(model), detect_format(network.state_dict))
