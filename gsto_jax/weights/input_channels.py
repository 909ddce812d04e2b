"""Converts the first convolution of RGB weights to images of other channels."""

import numpy as np
from jaxtyping import Float

_INPUT_KERNELS = {("stem1", "conv", "kernel"), ("encoder", "stem", "conv", "kernel")}
"""Paths of the first convolution of `HRNet` and `ContextNet`."""


def is_input_kernel(path: tuple[str, ...]) -> bool:
    """Returns whether a parameter's path, without its collection, is of the first convolution."""
    return path in _INPUT_KERNELS


def fit_input_channels(
    kernel: Float[np.ndarray, "h w 3 o"], channels: int
) -> Float[np.ndarray, "h w c o"]:
    """Converts the first convolution of RGB weights to images of another number of channels.

    One or two channels each take the sum over RGB, divided by their number: a gray image has the
    response of its RGB copy, both normalized alike. Of more than three channels the first three
    take the weights of red, green and blue, and the others start at zero: the response is that of
    the RGB image until training changes it. Other kernels are returned as they are.
    """
    if kernel.ndim != 4 or kernel.shape[2] != 3 or channels == 3:
        return kernel
    if channels < 3:
        mean = kernel.sum(2, keepdims=True, dtype=np.float64) / channels
        return np.repeat(mean, channels, axis=2).astype(kernel.dtype)
    zeros = np.zeros((*kernel.shape[:2], channels - 3, kernel.shape[3]), kernel.dtype)
    return np.concatenate([kernel, zeros], axis=2)


def describe_fit(channels: int) -> str:
    """Returns a note about the conversion of `fit_input_channels`."""
    if channels > 3:
        return (
            f"the first convolution has RGB weights for channels 1 to 3 and zeros for the others"
            f" of {channels}"
        )
    part = "the sum of its RGB weights" if channels == 1 else "half the sum of its RGB weights"
    return f"the first convolution has {part} for each channel of {channels}"
