"""Human pose: joints as heatmaps, trained and scored as COCO keypoints are (paper, section 4.4).

heatmaps   joints to heatmaps and back
task       what is trained, and how persons are seen in a test
estimate   the poses of a whole set
oks        how alike two poses are, and which of several say the same
coco       results as the benchmark takes them, and its ten figures
drawing    skeletons, heatmap panels
eval_set   an evaluation from start to end, and what it leaves
"""
