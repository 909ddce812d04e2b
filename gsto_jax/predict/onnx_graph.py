"""Simplifies the graphs of exported ONNX models (needs onnx)."""

import hashlib
from collections import Counter
from typing import Any

import numpy as np


def fold_batch_norms(model: Any) -> None:
    """Merges batch normalizations into the weights and biases of the convolutions before them.

    Changes `Conv, Transpose, Sub, Mul, Add` with constants per channel to `Conv, Transpose`, and
    `Max(x, 0)` to `Relu`, which runtimes fuse with the convolution and quantize together with it.
    """
    graph = Graph(model)
    for conv in [node for node in model.graph.node if node.op_type == "Conv"]:
        weight, transpose = graph.constant(conv.input[1]), graph.only_consumer(conv)
        if len(conv.input) != 2 or weight is None or not _is_channels_last(transpose):
            continue
        chain, last = [], transpose
        for kind in ("Sub", "Mul", "Add"):
            node = graph.only_consumer(last)
            if node is None:
                break
            values = graph.channel_values(node, last.output[0], len(weight))
            if node.op_type != kind or values is None:
                break
            chain.append((node, values))
            last = node
        if len(chain) < 3:
            continue
        mean, scale, shift = (values for _, values in chain)
        conv.input[1] = graph.add_constant(weight * scale[:, None, None, None])
        conv.input.append(graph.add_constant(shift - mean * scale))
        graph.remove([node for node, _ in chain], replacement=transpose.output[0])
    for node in [x for x in model.graph.node if x.op_type == "Max"]:
        limit = graph.constant(node.input[-1])
        if limit is not None and limit.dtype == np.float32 and not limit.any():
            node.op_type = "Relu"
            del node.input[1:]
    graph.remove_unused()


def _is_channels_last(node: Any) -> bool:
    """Returns whether a node transposes `b c h w` to `b h w c`."""
    return node is not None and any(list(x.ints) == [0, 2, 3, 1] for x in node.attribute)


class Graph:
    """Producers, consumers and constants of a graph, by name of the value."""

    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        self._helper, self.graph = numpy_helper, model.graph
        self._constants = {x.name: x for x in model.graph.initializer}
        self.producers = {name: x for x in model.graph.node for name in x.output}
        self.consumers: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self._outputs = {x.name for x in model.graph.output}

    def constant(self, name: str) -> np.ndarray | None:
        """Returns the value of a constant, or of a transposed constant; else None."""
        if name in self._constants:
            return self._helper.to_array(self._constants[name])
        node = self.producers.get(name)
        if node is None or node.op_type != "Transpose":
            return None
        value = self.constant(node.input[0])
        axes = [x.ints for x in node.attribute if x.name == "perm"]
        return None if value is None or not axes else value.transpose(axes[0])

    def only_consumer(self, node: Any) -> Any:
        """Returns the only node that uses the output of a node; None if there are more or none."""
        (name,) = node.output
        consumers = self.consumers.get(name, [])
        return consumers[0] if len(consumers) == 1 and name not in self._outputs else None

    def channel_values(self, node: Any, value: str, channels: int) -> np.ndarray | None:
        """Returns the constant `c` that a binary operation combines with a value `b h w c`."""
        if len(node.input) != 2 or value not in node.input or len(node.output) != 1:
            return None
        if node.op_type == "Sub" and node.input[0] != value:
            return None
        other = self.constant(node.input[1] if node.input[0] == value else node.input[0])
        is_per_channel = other is not None and other.shape == (1, 1, 1, channels)
        return other.reshape(channels) if other is not None and is_per_channel else None

    def add_constant(self, value: np.ndarray) -> str:
        """Adds a constant and returns its name, that of an equal one added before."""
        digest = hashlib.sha256(value.tobytes()).hexdigest()[:16]
        name = f"folded_{'x'.join(map(str, value.shape))}_{digest}"
        if name in self._constants:
            return name
        self._constants[name] = self._helper.from_array(np.ascontiguousarray(value), name)
        self.graph.initializer.append(self._constants[name])
        return name

    def remove(self, nodes: list[Any], replacement: str) -> None:
        """Removes a chain of nodes, whose last output is replaced."""
        (last,) = nodes[-1].output
        for node in self.consumers.get(last, []):
            for n, name in enumerate(node.input):
                if name == last:
                    node.input[n] = replacement
        self.consumers[replacement] = self.consumers.get(last, [])
        for node in nodes:
            self.graph.node.remove(node)

    def remove_unused(self) -> None:
        """Removes nodes and constants that nothing uses."""
        uses = Counter(name for node in self.graph.node for name in node.input)
        for node in reversed(list(self.graph.node)):
            if not any(uses[name] or name in self._outputs for name in node.output):
                uses.subtract(node.input)
                self.graph.node.remove(node)
        for constant in [x for x in self.graph.initializer if not uses[x.name]]:
            self.graph.initializer.remove(constant)
