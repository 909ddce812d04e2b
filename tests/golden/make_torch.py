"""Makes what PyTorch itself writes and computes for the tests of weights.

    pip install torch torchvision
    python tests/golden/make_torch.py

in an environment of its own. `j_torch_zip.pth` and `j_torch_before_1_6.pth` are one checkpoint of
many kinds of tensors in both formats of `torch.save`, `j_torch.npz` its numbers.
`k_torchvision_resnet50.npz` holds the maps of the four stages of torchvision's dilated ResNet-50,
with weights that names give (`make_timm.py`).
"""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import torchvision
from make_timm import image, kept, weights

HERE = Path(__file__).parent


def make_files():
    numbers = torch.arange(12, dtype=torch.float32)
    state = OrderedDict(
        parameter=torch.nn.Parameter(numbers.reshape(3, 4) / 8),
        view=numbers[4:10].reshape(2, 3),
        transposed=numbers.reshape(3, 4).T,
        empty=torch.zeros(0, 3),
        float64=torch.tensor([0.1, -1e300], dtype=torch.float64),
        float16=torch.tensor([1.5, -2], dtype=torch.float16),
        bfloat16=torch.tensor([1.5, -2], dtype=torch.bfloat16),
        int64=torch.tensor(2**40),
        uint8=torch.tensor([0, 255], dtype=torch.uint8),
        bool=torch.tensor([True, False]),
    )
    checkpoint = {"epoch": 3, "best": None, "rates": [0.1, 0.01], "state_dict": state}
    for name, is_zip in (("j_torch_zip.pth", True), ("j_torch_before_1_6.pth", False)):
        torch.save(checkpoint, HERE / name, _use_new_zipfile_serialization=is_zip)
    plain = {key: value.detach().double().numpy() for key, value in state.items()}
    np.savez_compressed(HERE / "j_torch.npz", **plain)


def make_maps():
    model = torchvision.models.resnet50(replace_stride_with_dilation=(False, True, True)).eval()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = {key: torch.from_numpy(value) for key, value in weights(shapes).items()}
    model.load_state_dict(state)
    model.double()
    versions = [f"torch {torch.__version__}", f"torchvision {torchvision.__version__}"]
    arrays = {
        "versions": np.array(versions),
        "keys": np.array(list(shapes)),
        "shapes": np.array(["x".join(map(str, shape)) for shape in shapes.values()]),
    }
    with torch.no_grad():
        x = model.maxpool(model.relu(model.bn1(model.conv1(torch.from_numpy(image()).double()))))
        for n in range(1, 5):
            x = getattr(model, f"layer{n}")(x)
            value = x.numpy()
            arrays[f"stage{n}"] = value[:, kept(value.shape[1])].astype(np.float32)
            print(f"stage{n}", value.shape, f"largest {np.abs(value).max():.3g}")
    np.savez_compressed(HERE / "k_torchvision_resnet50.npz", **arrays)


if __name__ == "__main__":
    make_files()
    make_maps()
