"""Small downloads of MPII in the layouts of its split files and of its release."""

import io
import json

import numpy as np
import scipy.io

from tests.data_pipelines.downloads_trees import image_bytes


def joints(seed):
    """Returns 16 joints x, y, in pixels that count from 1."""
    return np.random.default_rng(seed).uniform(5, 35, (16, 2)).round(2)


def entry(image, seed, visible=16, **changes):
    """Returns a person of train.json or valid.json."""
    values = {
        "image": image,
        "center": [31.0, 21.0],
        "scale": 0.25,
        "joints": joints(seed).tolist(),
        "joints_vis": [int(n < visible) for n in range(16)],
    }
    return values | changes


def matlab(**variables):
    """Returns a .mat file."""
    file = io.BytesIO()
    scipy.io.savemat(file, variables, do_compression=True)
    return file.getvalue()


def truth(seeds, missing=()):
    """Returns gt_valid.mat; the head of person n is 30 x 40 pixels."""
    positions = np.stack([joints(seed) for seed in seeds], -1)
    lacking = np.zeros((16, len(seeds)))
    for joint, person in missing:
        lacking[joint, person] = 1
    heads = np.zeros((2, 2, len(seeds)))
    heads[0], heads[1] = [[11], [6]], [[41], [46]]
    return matlab(pos_gt_src=positions, jnt_missing=lacking, headboxes_src=heads)


def mpii_files():
    """Train: two persons in a.jpg, one in b.jpg. Val: two persons, whose joints are gt_valid's."""
    train = [entry("a.jpg", 0), entry("b.jpg", 1, visible=9), entry("a.jpg", 2, center=[9.0, 9.0])]
    return {
        "annot/train.json": json.dumps(train).encode(),
        "annot/valid.json": json.dumps([entry("d.jpg", 50), entry("c.jpg", 51)]).encode(),
        "annot/gt_valid.mat": truth((3, 4), missing=((7, 1),)),
        **{f"images/{x}.jpg": image_bytes(n, kind=".jpg") for n, x in enumerate("abcd")},
    }


def structs(*rows):
    """Returns a MATLAB array of structs."""
    result = np.empty(len(rows), [(name, object) for name in rows[0]])
    for n, row in enumerate(rows):
        result[n] = tuple(row.values())
    return result


def rectangle(seed, visible=16, **changes):
    """Returns a person of the release; joints 8 and 9 lack is_visible, joint 3 is hidden."""
    points = structs(
        *(
            {
                "x": x,
                "y": y,
                "id": n,
                "is_visible": np.zeros(0) if n in (8, 9) else str(int(n != 3)),
            }
            for n, (x, y) in enumerate(joints(seed)[:visible])
        )
    )
    head = {"x1": 11.0, "y1": 6.0, "x2": 41.0, "y2": 46.0}
    position = {"objpos": structs({"x": 31.0, "y": 21.0}), "scale": 0.25}
    return {**head, "annopoints": structs({"point": points}), **position, **changes}


def release_files(extra=()):
    """Training images a.jpg of two persons and b.jpg of one without joints; test image c.jpg."""
    nobody = {"annopoints": np.zeros(0), "objpos": np.zeros(0), "scale": np.zeros(0)}
    annotations = structs(
        {
            "image": structs({"name": "a.jpg"}),
            "annorect": structs(rectangle(0), rectangle(1, visible=9), *extra),
        },
        {"image": structs({"name": "b.jpg"}), "annorect": structs(rectangle(2, **nobody))},
        {"image": structs({"name": "c.jpg"}), "annorect": structs({"scale": 1.0})},
    )
    release = structs({"annolist": annotations, "img_train": np.array([1, 1, 0])})
    return {
        "mpii_human_pose_v1_u12_2/mpii_human_pose_v1_u12_1.mat": matlab(RELEASE=release),
        **{f"images/{x}.jpg": image_bytes(n, kind=".jpg") for n, x in enumerate("abc")},
    }
