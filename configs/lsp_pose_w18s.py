"""Leeds Sports Poses in COCO's format: GSTO-HRNet-W18-Small-v2 from scratch.

    python main.py --mode=prepare --config=configs/lsp_pose_w18s.py --source=LSP --partial
    python main.py --config=configs/lsp_pose_w18s.py

LSP holds `annotations/person_keypoints_train.json`, `..._val.json` and the folders `train/` and
`val/`: one person per image, the joints of the head unlabeled. Takes half an hour on two CPU cores.
"""

from ml_collections import ConfigDict

from configs import base
from configs.coco_pose_w32 import set_coco


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `:baseline` is HRNet; `:overfit` is for a few images of COCO."""
    config = base.get_config()
    config.name = "lsp_pose_w18s"
    set_coco(config)
    config.model.init, config.model.bn_momentum = "he", 0.9
    config.train.batch_size, config.train.epochs, config.train.steps = 16, 0, 1800
    config.pose.sigma = 1.5
    config.data.crop = (128, 96)
    config.eval.sample_images = -1
    config.run.log_every, config.run.checkpoint_every, config.run.eval_every = 20, 100, 300
    return base.apply_arguments(config, arg, {"overfit": set_overfit})


def set_overfit(config: ConfigDict) -> None:
    """Trains and evaluates on the same few images of COCO, to see that training can fit them."""
    config.name += "-overfit"
    config.train.batch_size, config.train.steps = 8, 1000
    config.pose.sigma = 2.0
    config.data.crop = (256, 192)
    config.data.eval_split = config.data.train_split
    config.data.flip = config.eval.flip = False
    config.data.keypoints.rotation = config.data.keypoints.scale = 0.0
    config.run.eval_every = 0
