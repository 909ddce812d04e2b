"""Names of the outputs of predictions, which are the names of their folders."""

MEASURES = ("probabilities", "confidence", "entropy")
"""Outputs that a predictor computes from the class probabilities, see `measures.py`."""
OUTPUTS = (
    *("overlay", "color", "ids", *MEASURES, "uncertainty"),
    *("heatmaps", "branches", "gates"),
)
"""Names of all outputs."""
FEATURE_OUTPUTS = {"heatmaps", "branches", "gates"}
"""Outputs that need feature maps."""
ARRAY_OUTPUTS = {"ids", *MEASURES}
"""Outputs whose pixels are values, stored without loss; frames of a video are single files."""
JPEG_OUTPUTS = {"overlay", "uncertainty"}
"""Outputs that are written as JPEG."""
GEOTIFF_OUTPUTS = {"color", "ids", "confidence", "entropy"}
"""Outputs that keep the georeference of an image."""
SEGMENTATION_OUTPUTS = ("overlay", "color", "ids", *MEASURES, "uncertainty", "branches", "gates")
"""Outputs of label maps."""
POSE_OUTPUTS = ("overlay", "heatmaps", "branches", "gates")
"""Outputs of poses."""
CLASS_OUTPUTS = ("overlay", "branches", "gates")
"""Outputs of classes of images."""
