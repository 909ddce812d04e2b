"""Human pose: joints as heatmaps, trained and scored as COCO keypoints are (paper, section 4.4)."""
