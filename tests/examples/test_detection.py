# SPDX-License-Identifier: Apache-2.0
"""What the detectors share (examples/detection): host post-processing, data, metric, overlaps."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")

from PIL import Image  # noqa: E402

from examples.detection import boxes, data, metric, postprocess  # noqa: E402
from examples.detection.postprocess import (  # noqa: E402
    Anchors,
    Detections,
    FcosMultiStrideFilter,
    RetinaNetMultiStrideFilter,
    filter_cells,
)
from examples.yolox_mlu270.shapes import CLASSES, Shapes, write  # noqa: E402
from porter.preprocess import Preprocess  # noqa: E402
from porter.train.qat.integers import Output  # noqa: E402

SIDE, STRIDES, NAMES = 64, (8, 16, 32), 3
ANCHORS = Anchors(strides=STRIDES, base_sizes=(16, 32, 64))


# -- the filters against the straightforward decode ------------------------------------------------------------------


def plain_sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def plain_fcos(outputs, threshold, score_threshold, iou_threshold):
    """Every cell of every level decoded, one by one; then everything is thrown away that does not count."""
    found = []
    levels = len(STRIDES)
    for level, stride in enumerate(STRIDES):
        cls, box, center = (outputs[level + levels * part][0] for part in range(3))
        for y in range(cls.shape[1]):
            for x in range(cls.shape[2]):
                label = int(cls[:, y, x].argmax())
                score = math.sqrt(plain_sigmoid(cls[label, y, x]) * plain_sigmoid(center[0, y, x]))
                left, top, right, bottom = np.maximum(box[:, y, x].astype(np.float64), 0) * stride
                cx, cy = (x + 0.5) * stride, (y + 0.5) * stride
                if plain_sigmoid(cls[label, y, x]) >= plain_sigmoid(threshold) and score >= score_threshold:
                    found.append((score, label, np.clip([cx - left, cy - top, cx + right, cy + bottom], 0, SIDE)))
    return plain_nms(found, iou_threshold)


def plain_retinanet(outputs, score_threshold, iou_threshold):
    found = []
    levels = len(STRIDES)
    for level, stride in enumerate(STRIDES):
        cls, box = outputs[level][0], outputs[level + levels][0].astype(np.float64)
        shapes = ANCHORS.shapes(level)
        for y in range(cls.shape[1]):
            for x in range(cls.shape[2]):
                for a in range(9):
                    low = shapes[a, :2] + [(x + 0.5) * stride, (y + 0.5) * stride]
                    w, h = shapes[a, 2:] - shapes[a, :2]
                    dx, dy, dw, dh = box[a * 4 : a * 4 + 4, y, x]
                    cx, cy = low[0] + w / 2 + dx * w, low[1] + h / 2 + dy * h
                    w, h = w * math.exp(min(dw, math.log(62.5))), h * math.exp(min(dh, math.log(62.5)))
                    corners = np.clip([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 0, SIDE)
                    for label in range(NAMES):
                        score = plain_sigmoid(cls[a * NAMES + label, y, x])
                        if score >= score_threshold:
                            found.append((score, label, corners))
    return plain_nms(found, iou_threshold)


def plain_nms(found, threshold):
    kept = []
    for score, label, box in sorted(found, key=lambda row: -row[0]):
        if all(other[1] != label or plain_iou(box, other[2]) <= threshold for other in kept):
            kept.append((score, label, box))
    return kept


def plain_iou(a, b):
    inter = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return inter / max((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter, 1e-9)


def assert_same(found: Detections, wanted):
    """The same detections; those of the same score may be in another order."""
    assert len(found.scores) == len(wanted)
    mine = sorted(zip(-found.scores.round(5), found.labels, found.boxes.tolist(), strict=True))
    theirs = sorted((-round(float(s), 5), label, b.astype(np.float32).tolist()) for s, label, b in wanted)
    for (score, label, box), (s, other, b) in zip(mine, theirs, strict=True):
        assert abs(score - s) < 2e-5 and label == other
        np.testing.assert_allclose(box, b, atol=2e-3)


def raw_outputs(rng, parts, spread):
    """Logits around the threshold, so that every case occurs; distances and offsets of both signs."""
    made = []
    for part, channels in enumerate(parts):
        for stride in STRIDES:
            center, scale = (-4.0, spread) if part == 0 else (0.5, 1.0)
            shape = (1, channels, SIDE // stride, SIDE // stride)
            made.append(rng.normal(center, scale, shape).astype(np.float32))
    return made


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), spread=st.sampled_from([0.3, 1.0, 3.0]))
def test_fcos_filter_is_the_straightforward_decode(seed, spread):
    outputs = raw_outputs(np.random.default_rng(seed), (NAMES, 4, 1), spread)
    found = FcosMultiStrideFilter(STRIDES, max_shape=(SIDE, SIDE), most=10**6)(outputs)[0]
    assert_same(found, plain_fcos(outputs, -2.944, 0.05, 0.6))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), spread=st.sampled_from([0.3, 0.8]))
def test_retinanet_filter_is_the_straightforward_decode(seed, spread):
    """The filter drops nothing that the score threshold keeps: 0.0501 is above sigmoid(-2.944) = 0.05002."""
    outputs = raw_outputs(np.random.default_rng(seed), (9 * NAMES, 36), spread)
    settings_ = RetinaNetMultiStrideFilter(
        ANCHORS, score_threshold=0.0501, max_shape=(SIDE, SIDE), candidates=10**6, most=10**6
    )
    assert_same(settings_(outputs)[0], plain_retinanet(outputs, 0.0501, 0.5))


def test_the_raw_threshold_is_the_score_of_a_twentieth():
    assert 0.05 < plain_sigmoid(-2.944) < 0.05003


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_integers_with_scales_are_the_floats_they_stand_for(seed):
    rng = np.random.default_rng(seed)
    integers = [np.rint(o * 1000).astype(np.int16) for o in raw_outputs(rng, (NAMES, 4, 1), 1.0)]
    scales = rng.uniform(0.5e-3, 2e-3, len(integers)).tolist()
    detector = FcosMultiStrideFilter(STRIDES, max_shape=(SIDE, SIDE))
    floats = detector([i * s for i, s in zip(integers, scales, strict=True)])[0]
    np.testing.assert_array_equal(detector(integers, scales)[0].rows(), floats.rows())


def test_filter_gives_values_indices_places_and_data_of_each_image():
    first = np.full((2, 2, 2, 3), -5.0, np.float32)
    first[0, 1, 0, 2] = -2.9
    first[0, 0, 1, 0] = -2.95  # below the threshold
    first[1, 0, 1, 1] = 3
    second = np.arange(12, dtype=np.float32).reshape(2, 1, 2, 3)
    one, other = filter_cells([first, second], -2.944)
    assert one.cells.tolist() == [[0, 2]] and one.channels.tolist() == [1] and one.values.tolist() == [np.float32(-2.9)]
    assert one.data[0].shape == (1, 2) and one.data[1].tolist() == [[2.0]]
    assert other.cells.tolist() == [[1, 1]] and other.channels.tolist() == [0] and other.data[1].tolist() == [[10.0]]


def test_filter_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="share N, H and W"):
        filter_cells([np.zeros((1, 2, 4, 4)), np.zeros((1, 2, 4, 5))], 0)
    with pytest.raises(ValueError, match="2 inputs and 1 scales"):
        filter_cells([np.zeros((1, 2, 4, 4))] * 2, 0, [1.0])
    with pytest.raises(ValueError, match="8 outputs of 3 strides"):
        FcosMultiStrideFilter(STRIDES)([np.zeros((1, 1, 1, 1))] * 8)


def test_one_fcos_cell_by_hand():
    outputs = [np.full((1, c, 8, 8), v, np.float32) for c, v in ((2, -9), (4, 0), (1, 0))]
    outputs[0][0, 1, 3, 5] = 0.0  # class 1 at one half, centerness at one half
    outputs[1][0, :, 3, 5] = (1, 2, -3, 0.5)
    found = FcosMultiStrideFilter((8,), max_shape=(64, 64))(outputs)[0]
    np.testing.assert_allclose(found.rows(), [[36, 12, 44, 32, 0.5, 1]])


def test_anchors_by_hand():
    """A level of stride 8 and base 32: area 32 * 32 times the scale's square, height over width the ratio."""
    anchors = Anchors()
    assert anchors.count == 9
    np.testing.assert_array_equal(anchors.shapes(0)[3], [-16, -16, 16, 16])
    np.testing.assert_array_equal(anchors.shapes(0)[0], [-23, -11, 23, 11])  # 45.25 x 22.63, corners rounded
    exact = Anchors(rounded=False).shapes(1)
    widths, heights = (exact[:, 2:] - exact[:, :2]).T
    np.testing.assert_allclose(heights / widths, np.repeat([0.5, 1, 2], 3))
    np.testing.assert_allclose(np.sqrt(heights * widths), np.tile([64, 64 * 2 ** (1 / 3), 64 * 2 ** (2 / 3)], 3))
    grid = anchors.grid(0, 2, 3)
    assert grid.shape == (2 * 3 * 9, 4)
    np.testing.assert_array_equal(grid[9 + 3], [12 - 16, 4 - 16, 12 + 16, 4 + 16])  # row 0, column 1, the square one
    np.testing.assert_array_equal(grid[3 * 9 + 3], [4 - 16, 12 - 16, 4 + 16, 12 + 16])  # row 1, column 0


@pytest.mark.parametrize(
    "detector", [FcosMultiStrideFilter(STRIDES, max_shape=(SIDE, SIDE)),
                 RetinaNetMultiStrideFilter(ANCHORS, max_shape=(SIDE, SIDE))],
)  # fmt: skip
def test_what_is_emitted_runs_alone(detector, tmp_path):
    """The folder on the device has numpy and these two files; the outputs are integers with scales."""
    fcos = isinstance(detector, FcosMultiStrideFilter)
    parts = (NAMES, 4, 1) if fcos else (9 * NAMES, 36)
    names = [f"{part}_{stride}" for part in range(len(parts)) for stride in STRIDES]
    outputs = [np.rint(o * 500).astype(np.int16) for o in raw_outputs(np.random.default_rng(3), parts, 1.0)]
    scales = [1 / 500] * len(names)
    detector.emit(tmp_path, [Output(n, "int16", s, 0, False) for n, s in zip(names, scales, strict=True)], "abc")
    assert postprocess.load(tmp_path / "postprocess.json") == (detector, names, ["a", "b", "c"], scales)
    np.savez(tmp_path / "outputs.npz", **dict(zip(names, outputs, strict=True)))
    command = [sys.executable, "-I", "postprocess.py", "outputs.npz"]
    run = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    wanted = detector(outputs, scales)[0]
    assert len(rows) == len(wanted.scores) > 3
    assert [row["class"] for row in rows] == ["abc"[label] for label in wanted.labels]
    np.testing.assert_allclose([row["box"] for row in rows], wanted.boxes, atol=0.006)


def test_zero_points_and_real_outputs():
    """Filters are emitted for integers without zero points; a real output has the scale 1."""
    output = Output("x", "int16", 0.5, 3, False)
    with pytest.raises(ValueError, match="zero points of 0"):
        FcosMultiStrideFilter().emit(None, [output], [])


# -- overlaps and losses ---------------------------------------------------------------------------------------------


@st.composite
def box_pairs(draw):
    corners = st.lists(st.floats(0, 50, width=32), min_size=4, max_size=4)
    pair = [draw(corners), draw(corners)]
    for x0, y0, x1, y1 in pair:
        assume(abs(x1 - x0) > 0.5 and abs(y1 - y0) > 0.5)
    return [[min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)] for x0, y0, x1, y1 in pair]


@settings(max_examples=60, deadline=None)
@given(pair=box_pairs())
def test_iou_and_giou_of_any_pair(pair):
    a, b = pair
    iou = boxes.iou_and_union(torch.tensor(a), torch.tensor(b))[0].item()
    assert iou == pytest.approx(plain_iou(a, b), abs=1e-5)
    found = boxes.giou(torch.tensor(a), torch.tensor(b)).item()
    area = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in pair]
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    union = sum(area) / (1 + iou)
    assert found == pytest.approx(iou - (hull - union) / hull, abs=1e-4) and -1 <= found <= iou + 1e-6


def test_focal_loss_by_hand():
    """A probability of 1/2: alpha * 0.25 * ln 2 for a one, (1 - alpha) * 0.25 * ln 2 for a zero."""
    found = boxes.focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(found, torch.tensor([0.25, 0.75]) * 0.25 * math.log(2))
    certain = boxes.focal_loss(torch.tensor([3.0]), torch.ones(1)).item()
    p = 1 / (1 + math.exp(-3))
    assert certain == pytest.approx(-0.25 * (1 - p) ** 2 * math.log(p))


# -- data ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve shapes as a COCO set whose ids are no indices, with one crowd and one box without area."""
    path = tmp_path_factory.mktemp("coco")
    write("val", path, 12)
    annotations = json.loads((path / "annotations.json").read_text())
    for image in annotations["images"]:
        image["id"] = 100 - image["id"]
    for a in annotations["annotations"]:
        a["image_id"], a["category_id"] = 100 - a["image_id"], a["category_id"] * 7
    for category in annotations["categories"]:
        category["id"] *= 7
    extra = {"image_id": 99, "category_id": 7, "bbox": [0, 0, 60, 60], "area": 3600, "iscrowd": 1, "id": 900}
    annotations["annotations"] += [extra, {**extra, "iscrowd": 0, "bbox": [5, 5, 0, 9], "id": 901}]
    (path / "annotations.json").write_text(json.dumps(annotations))
    return path


def test_a_coco_folder_is_the_set_it_was_written_from(folder):
    source, drawn = data.CocoFolder(folder, folder / "annotations.json"), Shapes("val")
    assert len(source) == 12 and source.classes == CLASSES
    for i in range(12):
        mine, theirs = source[11 - i], drawn[i]  # ids were turned round
        np.testing.assert_array_equal(mine.image, theirs.image)
        np.testing.assert_array_equal(mine.boxes, theirs.boxes)
        np.testing.assert_array_equal(mine.labels, theirs.labels)
    coco = source.coco()
    assert [image["id"] for image in coco["images"]] == list(range(1, 13))
    assert {a["category_id"] for a in coco["annotations"]} <= set(range(1, 6))
    assert [a["image_id"] for a in coco["annotations"] if a["iscrowd"]] == [12]


def labelled(height=40, width=60):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return data.Sample(image, np.array([[10, 5, 30, 25], [50, 30, 60, 40]], np.float32), np.array([1, 2]))


def test_transforms_move_boxes_with_the_pixels():
    rng = np.random.default_rng(0)
    sample = labelled()
    flipped = data.RandomFlip(1.0)(sample, rng)
    assert flipped.boxes.tolist() == [[30, 5, 50, 25], [0, 30, 10, 40]]
    np.testing.assert_array_equal(flipped.image[5:25, 30:50], sample.image[5:25, 10:30][:, ::-1])
    resized = data.Resize((80, 1000))(sample, rng)
    assert resized.image.shape == (80, 120, 3) and resized.scale == 2
    assert resized.boxes.tolist() == [[20, 10, 60, 50], [100, 60, 120, 80]]
    padded = data.Pad((48, 64))(sample, rng)
    assert padded.image.shape == (48, 64, 3) and not padded.image[40:].any() and not padded.image[:, 60:].any()
    np.testing.assert_array_equal(padded.image[:40, :60], sample.image)
    with pytest.raises(ValueError, match="40x60 does not fit 32x64"):
        data.Pad((32, 64))(sample, rng)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), size=st.tuples(st.integers(8, 60), st.integers(8, 80)))
def test_crops_keep_the_objects_whose_centre_is_inside(seed, size):
    sample = labelled()
    probe = np.random.default_rng(seed)
    h, w = min(40, size[0]), min(60, size[1])
    top, left = int(probe.integers(40 - h + 1)), int(probe.integers(60 - w + 1))
    crop = data.RandomCrop(size)(sample, np.random.default_rng(seed))
    np.testing.assert_array_equal(crop.image, sample.image[top : top + h, left : left + w])
    centers = [(20, 15), (55, 35)]
    kept = [i for i, (x, y) in enumerate(centers) if left <= x < left + w and top <= y < top + h]
    assert crop.labels.tolist() == [sample.labels[i] for i in kept]
    assert (crop.boxes >= 0).all() and (crop.boxes[:, [0, 2]] <= w).all() and (crop.boxes[:, [1, 3]] <= h).all()


def test_hsv_changes_colours_within_its_gains():
    image = np.full((4, 4, 3), (200, 100, 50), np.uint8)
    sample = data.Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    assert np.abs(data.AugmentHsv(0, 0, 0)(sample, np.random.default_rng(0)).image.astype(int) - image).max() <= 4
    values = [data.AugmentHsv(0, 0, 0.4)(sample, np.random.default_rng(i)).image.max() for i in range(40)]
    assert 118 <= min(values) < 150 and max(values) > 240  # 200 * 0.6 and 200 * 1.4, at most 255


def test_images_are_preprocessed_as_porter_does_it(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    says = Preprocess(resize="letterbox", anchor="top-left", channels="YUV444_128", scale=1 / 128)
    # porter pads YUV with its own value; here black is padded as RGB, so only the picture itself is compared.
    found = data.preprocess(Image.fromarray(image), (64, 64))
    assert found.shape == (3, 64, 64) and found.dtype == np.float32
    np.testing.assert_array_equal(found[:, :35], says.image(tmp_path / "image.png", (64, 64))[:, :35])
    np.testing.assert_array_equal(found[:, 35:], np.broadcast_to([[[-1]], [[0]], [[0]]], (3, 29, 64)))
    whole = np.unique(found * 128)
    np.testing.assert_array_equal(whole, np.rint(whole))


def test_batches_are_padded_and_repeat_with_the_seed():
    dataset = data.Detection(Shapes("val"), (data.RandomFlip(0.5),), limit=6)
    torch.manual_seed(3)
    items = [dataset[i] for i in range(6)]
    batch = data.collate(items)
    most = max(len(item["labels"]) for item in items)
    assert batch["img"].shape == (6, 3, 128, 128) and batch["boxes"].shape == (6, most, 4)
    assert batch["valid"].sum(1).tolist() == [len(item["labels"]) for item in items]
    assert batch["index"].tolist() == list(range(6)) and batch["scale"].tolist() == [1.0] * 6
    torch.manual_seed(3)
    again = [dataset[i]["img"] for i in range(6)]
    assert all(torch.equal(a, item["img"]) for a, item in zip(again, items, strict=True))
    flips = {bool(torch.equal(dataset[0]["img"], items[0]["img"])) for _ in range(20)}
    assert flips == {True, False}
    with pytest.raises(IndexError):
        dataset[6]


# -- metric ----------------------------------------------------------------------------------------------------------


def truth(index, source, scale=1.0):
    sample = source[index]
    return Detections(sample.boxes * np.float32(scale), np.ones(len(sample.labels), np.float32), sample.labels)


def test_perfect_detections_have_a_map_of_one_also_in_parts():
    source = Shapes("val")
    found = {i: truth(i, source, 2.0) for i in range(8)}
    halves = []
    for part in (range(4), range(3, 8)):  # image 3 is seen by both, as a padded sampler would have it
        one = metric.CocoMeanAP(source, lambda outputs: [found[int(i)] for i in outputs[0]])
        one.update(
            [torch.tensor(list(part))], {"index": torch.tensor(list(part)), "scale": torch.full((len(part),), 2.0)}
        )
        halves.append(one)
    whole = metric.CocoMeanAP(source, lambda outputs: [])
    whole.merge([half.state() for half in halves])
    for judged in (whole, halves[1]):
        figures = judged.compute()
        assert figures["mAP"] == pytest.approx(1.0) and figures["AP50"] == pytest.approx(1.0)
    whole.reset()
    assert whole.compute()["mAP"] == 0.0


def test_missing_and_shifted_detections_cost():
    source = Shapes("val")
    one = metric.CocoMeanAP(source, lambda outputs: [truth(int(i), source) for i in outputs[0]])
    indices = torch.arange(6)
    one.update([indices], {"index": indices, "scale": torch.ones(6)})
    for index, found in list(one.state().items())[:3]:
        one.merge([{index: Detections(found.boxes + 3, found.scores, found.labels)}])
    shifted = one.compute()["mAP"]
    assert 0.3 < shifted < 0.95
    one.merge([{5: Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))}])
    assert one.compute()["mAP"] < shifted
