"""Simplifies the graphs of exported ONNX models (needs onnx)."""

import hashlib
from collections import Counter
from typing import Any

import numpy as np


def simplify(model: Any) -> None:
    """Removes broadcasts, merges batch normalizations, and adds branches for images not resized."""
    remove_broadcasts(model)
    fold_batch_norms(model)
    branch_on_size(model)


_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Greater", "Less", "Where")


def remove_broadcasts(model: Any) -> None:
    """Removes each `Expand` to the shape of another input of an elementwise node.

    JAX broadcasts the inputs of elementwise operations before them, except scalars; ONNX does so in
    the operation.
    """
    from onnx import shape_inference

    graph = Graph(model)
    inferred = shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input)
    ranks = {x.name: len(x.type.tensor_type.shape.dim) for x in values}

    def is_expanded(name: str) -> bool:
        return name in graph.producers and graph.producers[name].op_type == "Expand"

    for node in [x for x in model.graph.node if x.op_type in _ELEMENTWISE]:
        # A computed value that is no scalar has the shape of the output.
        if any(ranks.get(name) and not is_expanded(name) for name in node.input):
            for n, name in enumerate(node.input):
                if is_expanded(name):
                    node.input[n] = graph.producers[name].input[0]
    Graph(model).remove_unused()


def fold_batch_norms(model: Any) -> None:
    """Merges batch normalizations into the weights and biases of the convolutions before them.

    Changes `Conv, Transpose` and any `Sub, Mul, Add` with constants per channel to `Conv,
    Transpose`, and `Max(x, 0)` to `Relu`, which runtimes fuse with the convolution and quantize
    together with it.
    """
    graph = Graph(model)
    for conv in [node for node in model.graph.node if node.op_type == "Conv"]:
        weight, transpose = graph.constant(conv.input[1]), graph.only_consumer(conv)
        if len(conv.input) != 2 or weight is None or not _is_channels_last(transpose):
            continue
        scale, bias = np.ones(len(weight), weight.dtype), np.zeros(len(weight), weight.dtype)
        chain, last = [], transpose
        while (node := graph.only_consumer(last)) is not None:
            values = graph.channel_values(node, last.output[0], len(weight))
            if values is None or node.op_type not in ("Sub", "Mul", "Add"):
                break
            if node.op_type == "Mul":
                scale, bias = scale * values, bias * values
            else:
                bias = bias + values if node.op_type == "Add" else bias - values
            chain.append(node)
            last = node
        if not chain:
            continue
        conv.input[1] = graph.add_constant(weight * scale[:, None, None, None])
        conv.input.append(graph.add_constant(bias))
        graph.remove_following(transpose, chain)
    for node in [x for x in model.graph.node if x.op_type == "Max"]:
        limit = graph.constant(node.input[-1])
        if limit is not None and limit.dtype == np.float32 and not limit.any():
            node.op_type = "Relu"
            del node.input[1:]
    graph.remove_unused()


SIZE_CONDITION = "is_resized"
"""Start of the name of the condition of each `Where` that `branch_on_size` changes."""


def branch_on_size(model: Any) -> None:
    """Changes each `Where` that chooses one of two computed maps to an `If`.

    The nodes that only one of the maps needs move into its branch, and run only if it is chosen.
    """
    from onnx import helper, shape_inference

    inferred = shape_inference.infer_shapes(model).graph
    types = {x.name: x.type.tensor_type.elem_type for x in (*inferred.value_info, *inferred.output)}
    for node in [x for x in model.graph.node if x.op_type == "Where"]:
        condition, *values = node.input
        (result,) = node.output
        if not condition.startswith(SIZE_CONDITION):
            continue
        graph = Graph(model)
        branches: list[Any] = []
        for value, nodes in [(value, graph.ancestors(value, node)) for value in values]:
            for other in nodes:
                model.graph.node.remove(other)
            output = f"{result}_{len(branches)}"
            nodes.append(helper.make_node("Identity", [value], [output]))
            info = helper.make_tensor_value_info(output, types[result], None)
            branches.append(helper.make_graph(nodes, output, [], [info]))
        index = [x.output[0] for x in model.graph.node].index(result)
        model.graph.node.remove(node)
        options = dict(zip(("then_branch", "else_branch"), branches, strict=True))
        model.graph.node.insert(index, helper.make_node("If", [condition], [result], **options))


def _is_channels_last(node: Any) -> bool:
    """Returns whether a node transposes `b c h w` to `b h w c`."""
    return node is not None and any(list(x.ints) == [0, 2, 3, 1] for x in node.attribute)


def _inputs(node: Any) -> list[str]:
    """Returns the names of the inputs of a node and of the values that its branches use."""
    branches = [x.g for x in node.attribute if x.HasField("g")]
    return [*node.input, *(name for branch in branches for x in branch.node for name in x.input)]


class Graph:
    """Producers, consumers and constants of a graph, by name of the value."""

    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        self._helper, self.graph = numpy_helper, model.graph
        self._constants = {x.name: x for x in model.graph.initializer}
        self.producers = {name: x for x in model.graph.node for name in x.output}
        self.consumers: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for name in _inputs(node):
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

    def remove_following(self, node: Any, chain: list[Any]) -> None:
        """Removes a chain of nodes after a node, which gets the output of the chain."""
        node.output[0] = chain[-1].output[0]
        self.producers[node.output[0]] = node
        for other in chain:
            self.graph.node.remove(other)

    def ancestors(self, value: str, consumer: Any) -> list[Any]:
        """Returns the nodes that only a value of a consumer depends on, in their order."""
        nodes: list[Any] = []
        names: set[str] = set()
        target = consumer.output[0]
        for node in reversed(self.graph.node):
            users = {x.output[0] for name in node.output for x in self.consumers.get(name, [])}
            is_value = value in node.output and list(consumer.input).count(value) == 1
            allowed = names | {target} if is_value else names
            if users and users <= allowed and not self._outputs & set(node.output):
                nodes.insert(0, node)
                names |= {node.output[0]}
        return nodes

    def sort(self) -> None:
        """Puts each node behind the nodes whose outputs it or its branches use."""
        nodes, ready = list(self.graph.node), set[str]()
        del self.graph.node[:]
        while nodes:
            later = []
            for node in nodes:
                if any(name in self.producers and name not in ready for name in _inputs(node)):
                    later.append(node)
                else:
                    self.graph.node.append(node)
                    ready |= set(node.output)
            if len(later) == len(nodes):
                raise ValueError(f"the graph has a cycle at {nodes[0].name}")
            nodes = later

    def remove_unused(self) -> None:
        """Removes nodes and constants that nothing uses."""
        uses = Counter(name for node in self.graph.node for name in _inputs(node))
        for node in reversed(list(self.graph.node)):
            if not any(uses[name] or name in self._outputs for name in node.output):
                uses.subtract(_inputs(node))
                self.graph.node.remove(node)
        for constant in [x for x in self.graph.initializer if not uses[x.name]]:
            self.graph.initializer.remove(constant)
