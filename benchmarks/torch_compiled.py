"""Compiles calls of the PyTorch network of `benchmarks/torch_peer.py`, for benchmarks."""

from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo
import torch._inductor.config

MODE = "max-autotune"
"""Mode of torch.compile: times several algorithms per operation; on GPUs, CUDA graphs too."""


def compile_call(net: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a function of tensors that calls a network.

    Weights and BN statistics become static inputs, as those of a `torch.nn.Module` are. Without a
    gradient they are constants (freezing), so that BN is folded into convolutions. Each shape
    compiles anew. Programs compiled before are dropped, so time each function before the next one
    is compiled. Reaching Dynamo's recompile limit is an error; by default the function would run
    eager.

    Args:
      net: `torch_peer.Peer`, in its final memory layout.
      function: function of tensors.
    """
    torch._dynamo.reset()
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    torch._inductor.config.freezing = True
    for value in [*net.params.values(), *net.stats.values()]:
        torch._dynamo.mark_static_address(value)
    return torch.compile(function, mode=MODE, dynamic=False)
