"""Exported programs made by hand, without a network and without jax2onnx."""

import json

import numpy as np

CLASSES = ("road", "sky", "car")
COLORS = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)


def describe(task="segmentation", **fields):
    """A description as `model.json` has it."""
    steps = {"long_side": 0, "base_size": 0, "fixed_size": [0, 0], "pad_to": 4, "pad": "edge"}
    settings = {
        "data": {"ignore_label": 255},
        "model": {"align_corners": False},
        "eval": {"score": "exp"},
    }
    names = {"classes": CLASSES, "palette": [[9, 0, 0], [0, 9, 0], [0, 0, 9]]}
    if task == "classification":
        names = {"classes": ["red", "green", "blue"]}
    if task == "pose":
        names = {"joints": ["a", "b"], "skeleton": [[0, 1]], "visibility_threshold": 0.2}
    return {
        "task": task,
        "decode_options": {"alpha": "white", "orientation": "upright", "channels": 3},
        "preprocessing": steps,
        "settings": settings,
        "onnx_size": None,
        **names,
        **fields,
    }


def write_program(path, description=None, size=None):
    """Writes an ONNX file whose class is the largest color channel, at half the resolution."""
    from onnx import TensorProto, helper

    node, shape = helper.make_node, ["b", *(size or ("h", "w")), 3]
    constants = {
        "weight": COLORS.T[:, :, None, None].repeat(2, 2).repeat(2, 3) / 4 / 64,
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    nodes = [
        node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        node("Transpose", ["float"], ["channels_first"], perm=[0, 3, 1, 2]),
        node("Conv", ["channels_first", "weight"], ["scores"], strides=[2, 2]),
        node("Transpose", ["scores"], ["logits"], perm=[0, 2, 3, 1]),
        node("Resize", ["scores", "", "scales"], ["upsampled"], mode="linear"),
        node("ArgMax", ["upsampled"], ["best"], axis=1, keepdims=0),
        node("Cast", ["best"], ["labels"], to=TensorProto.UINT8),
    ]
    outputs = {"labels": (TensorProto.UINT8, 3), "logits": (TensorProto.FLOAT, 4)}
    _save(path, nodes, {"image": (TensorProto.UINT8, shape)}, outputs, constants, description)


def write_pose_program(path):
    """Writes an ONNX file whose joints are the two upper corners of each box."""
    from onnx import TensorProto, helper

    node = helper.make_node
    constants = {
        "x": np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]] * 2, np.float32).T,
        "score": np.array([0, 0, 0.75] * 2, np.float32),
        "shape": np.array([-1, 2, 3]),
        "scores_shape": np.array([-1]),
    }
    constants["x"][2, 3] = 1  # the second is x + width
    nodes = [
        node("MatMul", ["boxes", "x"], ["flat"]),
        node("Add", ["flat", "score"], ["scored"]),
        node("Reshape", ["scored", "shape"], ["joints"]),
        node("ReduceMax", ["joints"], ["best"], axes=[1, 2], keepdims=0),
        node("Reshape", ["best", "scores_shape"], ["scores"]),
    ]
    inputs = {
        "image": (TensorProto.UINT8, ["h", "w", 3]),
        "boxes": (TensorProto.FLOAT, ["n", 4]),
    }
    outputs = {"joints": (TensorProto.FLOAT, 3), "scores": (TensorProto.FLOAT, 1)}
    _save(path, nodes, inputs, outputs, constants, describe("pose"), opset=13)


def write_class_program(path):
    """Writes an ONNX file whose probabilities are the softmax of the mean of each channel."""
    from onnx import TensorProto, helper

    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        node("ReduceMean", ["float"], ["mean"], axes=[1, 2], keepdims=0),
        node("Mul", ["mean", "scale"], ["logits"]),
        node("Softmax", ["logits"], ["probabilities"]),
    ]
    inputs = {"image": (TensorProto.UINT8, ["b", "h", "w", 3])}
    outputs = {"probabilities": (TensorProto.FLOAT, 2)}
    constants = {"scale": np.float32(1 / 64)}
    _save(path, nodes, inputs, outputs, constants, describe("classification"))


def _save(path, nodes, inputs, outputs, constants, description, opset=17):
    import onnx
    from onnx import helper, numpy_helper

    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "program",
        [info(name, *spec) for name, spec in inputs.items()],
        [info(name, kind, [None] * rank) for name, (kind, rank) in outputs.items()],
        [numpy_helper.from_array(np.ascontiguousarray(x), k) for k, x in constants.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    if description is not None:
        helper.set_model_props(model, {"description": json.dumps(description)})
    onnx.save(model, path)
