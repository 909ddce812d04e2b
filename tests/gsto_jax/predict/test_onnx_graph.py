"""ONNX graphs after changes compute the same."""

import tempfile
from importlib.util import find_spec

import numpy as np
import pytest

from tests.faults.disks import files_no_larger_than

pytestmark = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxruntime"))), reason="the extra onnx is not installed"
)
CHANNELS = (3, 5, 4)


def graph(layers=2, extra_output=False):
    """Builds convolutions with batch normalization and ReLU, as jax2onnx writes them."""
    from onnx import TensorProto, helper, numpy_helper

    rng, nodes, constants = np.random.default_rng(0), [], []

    def constant(name, *shape):
        values = rng.normal(size=shape).astype(np.float32)
        constants.append(numpy_helper.from_array(values, name))
        return name

    constants.append(numpy_helper.from_array(np.float32(0), "zero"))
    value = "image"
    for n in range(layers):
        inputs, outputs = CHANNELS[n : n + 2]
        constant(f"k{n}", 3, 3, inputs, outputs)
        for name in ("mean", "scale", "shift"):
            constant(f"{name}{n}", 1, 1, 1, outputs)
        nodes += [
            helper.make_node("Transpose", [value], [f"x{n}"], perm=[0, 3, 1, 2]),
            helper.make_node("Transpose", [f"k{n}"], [f"w{n}"], perm=[3, 2, 0, 1]),
            helper.make_node("Conv", [f"x{n}", f"w{n}"], [f"c{n}"], pads=[1, 1, 1, 1]),
            helper.make_node("Transpose", [f"c{n}"], [f"t{n}"], perm=[0, 2, 3, 1]),
            helper.make_node("Sub", [f"t{n}", f"mean{n}"], [f"s{n}"]),
            helper.make_node("Mul", [f"s{n}", f"scale{n}"], [f"m{n}"]),
            helper.make_node("Add", [f"m{n}", f"shift{n}"], [f"a{n}"]),
            helper.make_node("Max", [f"a{n}", "zero"], [f"r{n}"]),
        ]
        value = f"r{n}"
    names = [value, "t0"] if extra_output else [value]

    def info(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4)

    body = helper.make_graph(nodes, "g", [info("image")], list(map(info, names)), constants)
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(body, opset_imports=opsets, ir_version=10)


def run(model, image=None):
    import onnxruntime

    if image is None:
        image = np.random.default_rng(1).normal(size=(2, 6, 7, 3)).astype(np.float32)
    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image})


def test_batch_norms_fold_into_convolutions():
    from gsto_jax.predict.onnx_graph import fold_batch_norms

    model = graph()
    expected = run(model)
    fold_batch_norms(model)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == ["Transpose", "Conv", "Transpose", "Relu"] * 2
    assert len(model.graph.initializer) == 4
    np.testing.assert_allclose(run(model)[0], expected[0], rtol=1e-4, atol=1e-4)


def test_values_that_others_use_are_not_folded():
    from gsto_jax.predict.onnx_graph import fold_batch_norms

    model = graph(extra_output=True)
    expected = run(model)
    fold_batch_norms(model)
    kinds = [node.op_type for node in model.graph.node]
    assert (kinds.count("Sub"), kinds.count("Conv")) == (1, 2)
    for actual, value in zip(run(model), expected, strict=True):
        np.testing.assert_allclose(actual, value, rtol=1e-4, atol=1e-4)


def model_of(nodes, outputs, constants):
    """Builds a model of an image `b h w c`."""
    from onnx import TensorProto, helper, numpy_helper

    def info(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4)

    values = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    body = helper.make_graph(nodes, "g", [info("image")], list(map(info, outputs)), values)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_affine_maps_in_any_order_fold_up_to_an_output():
    from onnx.helper import make_node

    from gsto_jax.predict.onnx_graph import fold_batch_norms

    rng = np.random.default_rng(0)
    constants = {"k": rng.normal(size=(3, 3, 3, 5)).astype(np.float32)}
    for n in range(3):
        constants[f"v{n}"] = rng.normal(size=(1, 1, 1, 5)).astype(np.float32)
    nodes = [
        make_node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2]),
        make_node("Transpose", ["k"], ["w"], perm=[3, 2, 0, 1]),
        make_node("Conv", ["x", "w"], ["c"]),
        make_node("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]),
        make_node("Add", ["v0", "t"], ["a"]),
        make_node("Mul", ["v1", "a"], ["m"]),
        make_node("Sub", ["m", "v2"], ["s"]),
    ]
    model = model_of(nodes, ["s"], constants)
    (expected,) = run(model)
    fold_batch_norms(model)
    assert [node.op_type for node in model.graph.node] == ["Transpose", "Conv", "Transpose"]
    np.testing.assert_allclose(run(model)[0], expected, rtol=1e-4, atol=1e-4)


def test_broadcasts_of_scalars_alone_stay():
    from onnx.helper import make_node

    from gsto_jax.predict.onnx_graph import remove_broadcasts

    nodes = [
        make_node("Shape", ["image"], ["shape"]),
        make_node("ReduceMax", ["image"], ["scalar"], keepdims=0),
        make_node("ReduceMax", ["image", "axes"], ["gate"], keepdims=1),
        make_node("Expand", ["gate", "shape"], ["gates"]),
        make_node("Expand", ["scalar", "shape"], ["scalars"]),
        make_node("Mul", ["gates", "image"], ["gated"]),
        make_node("Mul", ["scalars", "scalar"], ["square"]),
        make_node("Add", ["gated", "square"], ["sum"]),
    ]
    model = model_of(nodes, ["sum", "square"], {"axes": np.array([3])})
    expected = run(model)
    remove_broadcasts(model)
    (expand,) = [node for node in model.graph.node if node.op_type == "Expand"]
    assert expand.input[0] == "scalar"
    for actual, value in zip(run(model), expected, strict=True):
        np.testing.assert_array_equal(actual, value)


@pytest.mark.parametrize("is_resized", [False, True])
def test_only_the_chosen_map_is_computed(is_resized):
    from onnx.helper import make_node

    from gsto_jax.predict.onnx_graph import SIZE_CONDITION, Graph, branch_on_size

    nodes = [
        make_node("Identity", ["value"], [SIZE_CONDITION]),
        make_node("Add", ["image", "image"], ["shared"]),
        make_node("Neg", ["shared"], ["minus"]),
        make_node("Exp", ["minus"], ["first"]),
        make_node("Abs", ["shared"], ["second"]),
        make_node("Where", [SIZE_CONDITION, "first", "second"], ["choice"]),
        make_node("Add", ["choice", "shared"], ["sum"]),
    ]
    model = model_of(nodes, ["sum"], {"value": np.array(is_resized)})
    (expected,) = run(model)
    branch_on_size(model)
    assert [x.op_type for x in model.graph.node] == ["Identity", "Add", "If", "Add"]
    branches = [[x.op_type for x in a.g.node] for a in model.graph.node[2].attribute]
    assert sorted(branches) == [["Abs", "Identity"], ["Neg", "Exp", "Identity"]]
    kinds = [x.op_type for x in model.graph.node]
    model.graph.node.reverse()
    Graph(model).sort()
    Graph(model).remove_unused()
    assert sorted(x.op_type for x in model.graph.node) == sorted(kinds)  # branches use "shared"
    np.testing.assert_array_equal(run(model)[0], expected)


def test_convolutions_with_the_same_weights_share_them():
    from gsto_jax.predict.onnx_graph import fold_batch_norms

    model = graph(layers=1)
    copies = [type(node).FromString(node.SerializeToString()) for node in model.graph.node[2:]]
    for node in copies:  # as of the flipped image
        names = [f"{x}_2" if x in ("c0", "t0", "s0", "m0", "a0") else x for x in node.input]
        node.input[:], node.output[0] = names, f"{node.output[0]}_2"
    model.graph.node.extend(copies)
    output = type(model.graph.output[0])()
    output.CopyFrom(model.graph.output[0])
    output.name = "r0_2"
    model.graph.output.append(output)
    expected = run(model)
    fold_batch_norms(model)
    assert [node.op_type for node in model.graph.node].count("Conv") == 2
    assert len(model.graph.initializer) == 2
    for actual, value in zip(run(model), expected, strict=True):
        np.testing.assert_allclose(actual, value, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_precisions_keep_inputs_outputs_and_metadata():
    import onnx

    from gsto_jax.predict.onnx_precision import to_float16, to_int8

    model = graph()
    onnx.helper.set_model_props(model, {"description": "{}"})
    content, (expected,) = model.SerializeToString(), run(graph())
    rng = np.random.default_rng(2)
    inputs = [{"image": rng.normal(size=(1, 6, 7, 3)).astype(np.float32)} for _ in range(3)]
    for converted, limit in ((to_float16(content), 0.01), (to_int8(content, inputs), 0.1)):
        changed = onnx.load_from_string(converted)
        assert {x.key: x.value for x in changed.metadata_props} == {"description": "{}"}
        (actual,) = run(converted)
        assert actual.dtype == np.float32
        assert np.abs(actual - expected).max() <= limit * np.abs(expected).max()
    types = [x.data_type for x in onnx.load_from_string(to_float16(content)).graph.initializer]
    assert types.count(onnx.TensorProto.FLOAT16) >= 2


@pytest.mark.filterwarnings("ignore")
def test_gates_stay_float32():
    import onnx

    from gsto_jax.predict.onnx_precision import to_int8

    model = graph()
    # Between the layers: image -> conv -> r0 -> gate * r0 -> conv, as the gates of a network.
    make = onnx.helper.make_node
    gate = [
        make("Einsum", ["r0", "gate_kernel"], ["g0"], equation="bhwc,cn->bhwn"),
        make("Mul", ["g0", "gate_scale"], ["g1"]),
        make("Add", ["g1", "gate_shift"], ["g2"]),
        make("Relu", ["g2"], ["g3"]),
        make("Sigmoid", ["g3"], ["g4"]),
        make("Mul", ["g4", "r0"], ["gated"]),
    ]
    nodes = list(model.graph.node)
    nodes[8].input[0] = "gated"
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:8], *gate, *nodes[8:]])
    constants = {"gate_kernel": (5, 1), "gate_scale": (1, 1, 1, 1), "gate_shift": (1, 1, 1, 1)}
    for name, shape in constants.items():
        values = np.full(shape, 0.3, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    inputs = [{"image": np.random.default_rng(2).normal(size=(1, 6, 7, 3)).astype(np.float32)}]
    changed = onnx.load_from_string(to_int8(model.SerializeToString(), inputs))
    producers = {name: x for x in changed.graph.node for name in x.output}
    kinds, node = [], next(x for x in changed.graph.node if x.op_type == "Sigmoid")
    for _ in range(4):
        node = producers[node.input[0]]
        kinds.append(node.op_type)
    assert kinds == ["Relu", "Add", "Mul", "Einsum"]


def test_softmax_over_many_pixels_stays_float32():
    """Its sum of 65536 would be infinite in float16."""
    from onnx import TensorProto, helper, numpy_helper, shape_inference

    from gsto_jax.predict.onnx_precision import to_float16

    kernels = {"first": 0.0, "last": 2.0**15}
    nodes = [
        helper.make_node("Conv", ["image", "first"], ["c"]),
        helper.make_node("Exp", ["c"], ["e"]),
        helper.make_node("ReduceSum", ["e", "axes"], ["s"]),
        helper.make_node("Div", ["e", "s"], ["p"]),
        helper.make_node("Conv", ["p", "last"], ["z"]),
        helper.make_node("Relu", ["z"], ["y"]),
    ]
    constants = [
        *(numpy_helper.from_array(np.full((1, 1, 1, 1), x, "f"), k) for k, x in kernels.items()),
        numpy_helper.from_array(np.array([2, 3]), "axes"),
    ]
    shapes = {"image": (1, 1, 256, 256), "y": (1, 1, 256, 256)}
    image, y = (
        helper.make_tensor_value_info(k, TensorProto.FLOAT, shape) for k, shape in shapes.items()
    )
    body = helper.make_graph(nodes, "g", [image], [y], constants)
    opsets = [helper.make_opsetid("", 21)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=10)
    content = to_float16(shape_inference.infer_shapes(model).SerializeToString())
    (actual,) = run(content, np.zeros(shapes["image"], np.float32))
    np.testing.assert_allclose(actual, 0.5, rtol=1e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [100, 2300])
def test_full_disk_while_quantizing(tmp_path, monkeypatch, capfd, size):
    """Its files are in a temporary folder, the second of them written by onnxruntime."""
    from gsto_jax.predict.onnx_precision import to_int8

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with files_no_larger_than(size), pytest.raises(OSError, match="File too large") as caught:
        to_int8(graph().SerializeToString(), iter(()))
    assert str(caught.value.filename).startswith(str(tmp_path)) and not list(tmp_path.iterdir())
    assert "Traceback" not in "".join(capfd.readouterr())


def test_spread():
    from gsto_jax.predict.onnx_precision import spread

    assert spread(range(3), 5) == [0, 1, 2]
    assert spread(range(10), 4) == [0, 2, 5, 7]
