"""ONNX labels of a one-layer network, for a subprocess."""

import jax

from gsto_jax.predict.onnx_export import onnx_model
from gsto_jax.predict.single_pass import segmentation_source
from tests.gsto_jax.small_network import image_of, make_predictor


def label_agreement(long_side, settings, fixed=None):
    """Returns the fraction of equal labels of ONNX and the predictor, per size."""
    import onnxruntime

    jax.config.update("jax_platforms", "cpu")
    predictor = make_predictor(long_side, **settings)
    model = onnx_model(segmentation_source(predictor), fixed)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    shares = []
    for size in [fixed] if fixed else [(97, 129), (33, 40), (5, 103)]:
        image = image_of(size)
        labels = session.run(["labels"], {"image": image[None]})[0][0]
        shares.append(float((labels == predictor(image).labels).mean()))
    return shares
