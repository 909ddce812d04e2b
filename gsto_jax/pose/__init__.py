"""Human pose estimation with heatmaps, evaluated as COCO keypoints (paper, section 4.4)."""
