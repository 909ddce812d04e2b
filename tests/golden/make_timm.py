"""Makes `i_timm_hrnet.npz`: features and logits of timm's HRNets, weights by a seed and names.

    pip install torch timm
    python tests/golden/make_timm.py

in an environment of its own. The weights are large and are not stored: `weights` makes the same
ones again, with NumPy alone. timm imports torchvision for its data sets and its boxes; where that
is missing, empty names stand in for it, since an HRNet needs none of it.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
import zlib
from pathlib import Path

import numpy as np

NETWORKS = ("hrnet_w18_small_v2", "hrnet_w18", "hrnet_w32", "hrnet_w48")
TARGET = Path(__file__).with_name("i_timm_hrnet.npz")
SIDE = 64
CHANNELS = 48
"""Of each branch so many channels are kept, evenly spaced."""


def weights(shapes):
    """Arrays by name, each from its own name and shape; counters of batches are 0."""
    arrays = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if name.endswith("num_batches_tracked"):
            arrays[name] = np.zeros(shape, np.int64)
            continue
        if len(shape) > 1:  # kernels, such that maps stay within some hundreds
            value = rng.standard_normal(shape, np.float32) / np.sqrt(2 * np.prod(shape[1:]))
        elif name.endswith(("running_var", "weight")):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = 0.3 * rng.standard_normal(shape)
        arrays[name] = value.astype(np.float32)
    return arrays


def image():
    """The input `1 3 h w`."""
    return np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE), np.float32)


def kept(width):
    """Returns the channels of a branch that are kept."""
    return np.unique(np.linspace(0, width - 1, min(width, CHANNELS)).round().astype(int))


class _Anything(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Module(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


class _StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds torchvision where it is not."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        pass


def main():
    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.append(_StandIn())
    import timm
    import torch

    arrays = {"versions": np.array([f"torch {torch.__version__}", f"timm {timm.__version__}"])}
    for name in NETWORKS:
        model = timm.create_model(name).eval()
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        state = {key: torch.from_numpy(value) for key, value in weights(shapes).items()}
        model.load_state_dict(state)
        model.double()
        with torch.no_grad():
            x = model.act1(model.bn1(model.conv1(torch.from_numpy(image()).double())))
            branches = model.stages(model.act2(model.bn2(model.conv2(x))))
            logits = model(torch.from_numpy(image()).double())
        arrays[f"{name}/logits"] = logits.numpy().astype(np.float32)
        arrays[f"{name}/keys"] = np.array(list(shapes))
        arrays[f"{name}/shapes"] = np.array(
            ["x".join(map(str, shape)) for shape in shapes.values()]
        )
        for n, branch in enumerate(branches):
            value = branch.numpy()
            arrays[f"{name}/branch{n}"] = value[:, kept(value.shape[1])].astype(np.float32)
            print(name, n, value.shape, f"largest {np.abs(value).max():.3g}")
    np.savez_compressed(TARGET, **arrays)
    print(f"{TARGET.name}: {TARGET.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
