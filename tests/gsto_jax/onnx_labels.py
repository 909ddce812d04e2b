"""Labels by ONNX of a network of one convolution, in a process of its own."""

import jax
import jax.numpy as jnp

from gsto_jax.predict import export
from tests.gsto_jax.small_network import image_of, make_predictor


def equal_labels(long_side, settings, fixed=None):
    """Returns the shares of labels that ONNX and the predictor have in common, by size."""
    import onnxruntime
    from jax2onnx import to_onnx

    jax.config.update("jax_platforms", "cpu")
    predictor = make_predictor(long_side, **settings)
    run = export.program(predictor)
    shape = (1, *fixed, 3) if fixed else jax.export.symbolic_shape("b, h, w, 3")
    spec = jax.ShapeDtypeStruct(shape, jnp.uint8)
    closed = jax.make_jaxpr(lambda images: tuple(run(images).values()))(spec)
    with export._quiet():
        model = to_onnx(
            lambda images: tuple(export._inlined(closed.jaxpr, closed.consts, [images], {})),
            [spec],
            model_name="small",
            opset=export._OPSET,
            input_names=["image"],
            output_names=["labels", "logits"],
        )
    del model.graph.value_info[:]
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    shares = []
    for size in [fixed] if fixed else [(97, 129), (33, 40), (5, 103)]:
        image = image_of(size)
        labels = session.run(["labels"], {"image": image[None]})[0][0]
        shares.append(float((labels == predictor(image).labels).mean()))
    return shares
