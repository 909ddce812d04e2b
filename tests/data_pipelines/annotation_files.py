"""Writes COCO and labelme files whose labels, drawn, equal given label maps exactly."""

import base64
import json

import cv2
import numpy as np
import pycocotools.mask as coco_masks


def outline(component):
    """Returns the corners [x, y] of the outer outline of the pixels of a mask, between pixels."""
    edges = {}
    padded = np.pad(component, 1)
    for dy, dx, start, end in (
        (-1, 0, (0, 0), (1, 0)),  # the edges of a pixel, clockwise, by the neighbor beyond
        (0, 1, (1, 0), (1, 1)),
        (1, 0, (1, 1), (0, 1)),
        (0, -1, (0, 1), (0, 0)),
    ):
        beyond = np.roll(padded, (-dy, -dx), (0, 1))[1:-1, 1:-1]
        for y, x in np.argwhere(component & ~beyond).tolist():
            edges.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    loops = []
    while edges:
        loop = [next(iter(edges))]
        while loop[-1] in edges:
            targets = edges[loop[-1]]
            loop.append(targets.pop())
            if not targets:
                del edges[loop[-2]]
        loops.append(loop[:-1])
    return max(loops, key=lambda loop: cv2.contourArea(np.array(loop, np.float32)))


def components(label):
    """Yields the id and the mask of each 4-connected component of a label map."""
    for value in np.unique(label).tolist():
        count, numbers = cv2.connectedComponents((label == value).astype(np.uint8), connectivity=4)
        for number in range(1, count):
            yield value, numbers == number


def segmentation(mask, kind):
    """Returns COCO's segmentation of a mask: polygons, rle or counts."""
    if kind == "polygons":
        return [np.array(outline(mask)).ravel().tolist()]
    rle = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    if kind == "rle":
        return {"size": rle["size"], "counts": rle["counts"].decode()}
    changes = np.flatnonzero(np.diff(mask.T.ravel(), prepend=False))
    lengths = np.diff(changes, prepend=0, append=mask.size).tolist()
    return {"size": list(mask.shape), "counts": lengths}


def coco(labels, names, kind="polygons"):
    """Returns a COCO file of label maps by file name, with ids from 1 for names by label id."""
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names.values(), start=1)],
    }
    ids = {value: n for n, value in enumerate(names, start=1)}
    for image_id, (file_name, label) in enumerate(labels.items()):
        height, width = label.shape
        image = {"id": image_id, "file_name": file_name, "height": height, "width": width}
        content["images"].append(image)
        for value, mask in components(label):
            if value in names:
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]),
                        "image_id": image_id,
                        "category_id": ids[value],
                        "segmentation": segmentation(mask, kind),
                        "area": int(mask.sum()),
                        "iscrowd": 0,
                    }
                )
    return content


def labelme(file_name, label, names, kind="polygon"):
    """Returns a labelme file of a label map, with names by label id."""
    shapes = []
    for value, mask in components(label):
        if value not in names:
            continue
        shape = {"label": names[value], "group_id": None, "flags": {}, "shape_type": kind}
        if kind == "polygon":
            shape["points"] = [[float(x), float(y)] for x, y in outline(mask)]
        else:
            (top, left), (bottom, right) = np.argwhere(mask).min(0), np.argwhere(mask).max(0)
            png = cv2.imencode(".png", 255 * mask[top : bottom + 1, left : right + 1])[1]
            shape["points"] = [[float(left), float(top)], [float(right), float(bottom)]]
            shape["mask"] = base64.b64encode(png.tobytes()).decode()
        shapes.append(shape)
    height, width = label.shape
    return {
        **{"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": file_name},
        **{"imageData": None, "imageHeight": height, "imageWidth": width},
    }


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path
