"""Leeds Sports Poses in the form of COCO keypoints: GSTO-HRNet-W18-Small-v2, for two cores.

    python main.py --mode=prepare --config=configs/lsp_pose_w18s.py --source=LSP --partial

LSP holds `annotations/person_keypoints_train.json`, `..._val.json` and the folders `train/` and
`val/`: one person an image, the joints of the head unlabeled. From scratch, in half an hour.
"""

from ml_collections import ConfigDict

from configs import base
from configs.coco_pose_w32 import set_coco


def get_config(arg: str | None = None) -> ConfigDict:
    """GSTO-HRNet-W18-Small-v2, or HRNet with `:baseline`; of COCO's images with `:overfit`."""
    config = base.get_config()
    config.name = "lsp_pose_w18s"
    set_coco(config)
    config.model.init, config.model.bn_momentum = "he", 0.9
    config.train.batch_size, config.train.epochs, config.train.steps = 16, 0, 1800
    config.pose.sigma = 1.5
    config.data.crop = (128, 96)
    config.eval.sample_images = -1
    config.run.log_every, config.run.checkpoint_every, config.run.eval_every = 20, 100, 300
    return base.finish(config, arg, {"overfit": set_overfit})


def set_overfit(config: ConfigDict) -> None:
    """Learns a few images of COCO by heart, and is tested on them: that training can."""
    config.name += "-overfit"
    config.train.batch_size, config.train.steps = 8, 1000
    config.pose.sigma = 2.0
    config.data.crop = (256, 192)
    config.data.eval_split = config.data.train_split
    config.data.flip = config.eval.flip = False
    config.data.keypoints.rotation = config.data.keypoints.scale = 0.0
    config.run.eval_every = 0
