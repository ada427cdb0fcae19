# SPDX-License-Identifier: Apache-2.0
"""The example model, its data set, its metrics and its loss (examples/yolox_mlu270)."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")
HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

from yolox_mlu270 import evaluate, losses, shapes, train, yolox  # noqa: E402

from porter.data import Preprocess  # noqa: E402


def published_names(size: str) -> list[tuple[str, str]]:
    lines = (HERE / f"yolox_{size}.txt").read_text().splitlines()
    return [(name, shape) for name, shape in (line.split() for line in lines if not line.startswith("#"))]


def trained(seed: int, decode: str, classes: int = 3) -> Any:
    """A nano with random batch norm statistics, so that no layer is an accidental identity."""
    torch.manual_seed(seed)
    model = yolox.yolox_nano(classes, decode)
    for name, value in model.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2)
    return model


# -- the model


@pytest.mark.parametrize("size", ["nano", "s"])
def test_state_dict_is_that_of_the_published_checkpoints(size: str) -> None:
    with torch.device("meta"):
        model = yolox.YOLOX(size)
    mine = [(name, "x".join(map(str, v.shape)) or "scalar") for name, v in model.state_dict().items()]
    assert mine == published_names(size)


@pytest.mark.parametrize(
    ("size", "millions"), [("nano", 0.91), ("tiny", 5.06), ("s", 8.97), ("m", 25.3), ("l", 54.2), ("x", 99.1)]
)
def test_parameter_count_is_that_of_the_published_table(size: str, millions: float) -> None:
    with torch.device("meta"):
        model = getattr(yolox, f"yolox_{size}")()
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert round(count, 2 if millions < 10 else 1) == millions
    assert not model.training


def test_batch_norm_is_that_of_upstream() -> None:
    norms = [m for m in yolox.yolox_nano().modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and all(m.eps == 1e-3 and m.momentum == 0.03 for m in norms)


def test_decodes_agree_and_are_the_formula() -> None:
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        raw, modern, legacy = (trained(0, d)(images).numpy() for d in ("none", "modern", "legacy"))
    assert modern.shape == (2, 8 * 12 + 4 * 6 + 2 * 3, 8)
    assert np.array_equal(modern, legacy)
    row = 0
    for stride in (8, 16, 32):
        for y in range(64 // stride):
            for x in range(96 // stride):
                np.testing.assert_allclose(
                    modern[:, row, :2], (raw[:, row, :2] + [x, y]) * np.float32(stride), rtol=1e-6
                )
                np.testing.assert_allclose(modern[:, row, 2:4], np.exp(raw[:, row, 2:4]) * stride, rtol=1e-5)
                row += 1
    assert np.array_equal(modern[..., 4:], raw[..., 4:])


COMPARE = """
import sys
sys.path[:0] = sys.argv[1:3]
import megvii, torch
from yolox_mlu270 import yolox
images = torch.rand(2, 3, 96, 160) * 255
with torch.no_grad():
    for size in ("nano", "s"):
        theirs = getattr(megvii, f"yolox_{size}")()
        for decode in ("modern", "legacy"):
            mine = getattr(yolox, f"yolox_{size}")(decode=decode)
            mine.load_state_dict(theirs.state_dict(), strict=True)
            print(torch.equal(mine(images), theirs(images)))
"""


@pytest.mark.upstream
def test_outputs_equal_those_of_upstream() -> None:
    # in a process of its own: megvii.py puts stand-ins for missing packages into sys.modules
    run = subprocess.run(
        [sys.executable, "-c", COMPARE, str(EXAMPLES), str(HERE.parent / "upstream")], capture_output=True, text=True
    )
    assert run.stdout.split() == ["True"] * 4, run.stderr


def test_unknown_decode_is_refused() -> None:
    with pytest.raises(ValueError, match="'modern', 'legacy' or 'none'"):
        yolox.yolox_nano(decode="modem")  # type: ignore[arg-type]


@pytest.mark.parametrize("decode", ["modern", "legacy"])
def test_export_captures_the_decode(decode: str) -> None:
    model, images = trained(1, decode), torch.rand(1, 3, 64, 64) * 255
    program = torch.export.export(model, (images,)).run_decompositions({})
    with torch.no_grad():
        assert torch.equal(program.module()(images), model(images))
    ops = {str(node.target) for node in program.graph.nodes}
    assert ("aten.slice_scatter.default" in ops) == (decode == "legacy")
    assert "aten.arange.default" in ops


def test_factories_load_by_file_path() -> None:
    spec = importlib.util.spec_from_file_location("some_name", EXAMPLES / "yolox_mlu270" / "yolox.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["some_name"] = module
    try:
        spec.loader.exec_module(module)
        assert module.yolox_nano_shapes_legacy().head.decode == "legacy"
        assert module.yolox_nano_shapes().head.num_classes == len(shapes.CLASSES)
    finally:
        del sys.modules["some_name"]


# -- the data set


def test_data_set_is_a_function_of_seed_split_and_index() -> None:
    first, again, other = shapes.Shapes("val"), shapes.Shapes("val"), shapes.Shapes("val", seed=1)
    for i in (0, 7, 299):
        assert np.array_equal(first[i].image, again[i].image)
        assert np.array_equal(first[i].boxes, again[i].boxes)
        assert not np.array_equal(first[i].image, other[i].image)
    assert not np.array_equal(shapes.Shapes("train")[0].image, shapes.Shapes("calib")[0].image)
    assert set(shapes.TRAIN_PHOTOS).isdisjoint(shapes.VAL_PHOTOS)
    assert len(first) == 300
    with pytest.raises(IndexError):
        first[300]


@pytest.mark.parametrize("backgrounds", ["photos", "textures"])
def test_samples_are_well_formed(backgrounds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backgrounds == "textures":
        monkeypatch.setattr(shapes, "_photos", lambda names: ())
    else:
        pytest.importorskip("skimage")
    data = shapes.Shapes("train")
    assert data.backgrounds == backgrounds
    seen = set()
    for i in range(40):
        sample = data[i]
        assert sample.image.shape == (shapes.SIZE, shapes.SIZE, 3) and sample.image.dtype == np.uint8
        assert sample.boxes.shape == (len(sample.labels), 4) and 1 <= len(sample.labels) <= 6
        assert (sample.boxes >= 0).all() and (sample.boxes <= shapes.SIZE).all()
        assert ((sample.boxes[:, 2:] - sample.boxes[:, :2]) >= 5).all()
        seen |= set(sample.labels.tolist())
    assert seen == set(range(len(shapes.CLASSES)))


def test_box_is_tight_around_what_was_painted() -> None:
    rng = np.random.default_rng(0)
    for kind in shapes.CLASSES:
        image = np.full((shapes.SIZE, shapes.SIZE, 3), 128, np.uint8)
        mask = shapes._mask(kind, rng)
        shapes._paint(image, mask, (20, 30), rng)
        rows, columns = np.flatnonzero((image != 128).any((1, 2))), np.flatnonzero((image != 128).any((0, 2)))
        assert (columns[0], rows[0]) == (20, 30)
        assert (columns[-1] + 1, rows[-1] + 1) == (20 + mask.shape[1], 30 + mask.shape[0])


def test_written_folder_is_the_split(tmp_path: Path) -> None:
    from PIL import Image

    assert shapes.write("calib", tmp_path, limit=3) == 3
    coco = json.loads((tmp_path / "annotations.json").read_text())
    data = shapes.Shapes("calib")
    for i, entry in enumerate(coco["images"]):
        assert np.array_equal(np.asarray(Image.open(tmp_path / entry["file_name"])), data[i].image)
    x, y, w, h = coco["annotations"][0]["bbox"]
    assert [x, y, x + w, y + h] == data[0].boxes[0].tolist()
    assert (tmp_path / "preprocess.toml").read_text() == shapes.PREPROCESS.read_text()


# -- preprocessing, post-processing and metrics


@pytest.mark.parametrize("shape", [(128, 128), (97, 213), (40, 30)])
def test_preprocess_toml_says_what_preprocess_does(shape: tuple[int, int], tmp_path: Path) -> None:
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    mine, scale = evaluate.preprocess(image)
    theirs = Preprocess.load(shapes.PREPROCESS).image(tmp_path / "a.png", (shapes.SIZE, shapes.SIZE))
    assert np.array_equal(mine, theirs)
    assert scale == min(shapes.SIZE / shape[0], shapes.SIZE / shape[1])
    if shape == (128, 128):
        assert np.array_equal(mine[0], image[..., 2])  # blue first


def test_nms_drops_only_overlaps_above_the_threshold() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 9], [20, 20, 30, 30]], np.float32)
    scores = np.array([0.5, 0.6, 0.9, 0.1], np.float32)
    assert evaluate.nms(boxes, scores, 0.65) == [2, 1, 3]
    assert evaluate.nms(boxes, scores, 0.5) == [2, 3]


def test_postprocess_takes_the_best_class_and_suppresses_within_it() -> None:
    rows = np.array(
        [
            [10, 10, 8, 4, 0.9, 0.1, 0.8],
            [10, 10, 8, 4, 0.8, 0.1, 0.8],  # hidden by the first
            [10, 10, 8, 4, 0.5, 0.8, 0.1],  # another class: stays
            [50, 50, 8, 4, 0.1, 0.0, 0.05],  # 0.005 is under the confidence
        ],
        np.float32,
    )
    found = evaluate.postprocess(rows)
    assert found.labels.tolist() == [1, 0]
    np.testing.assert_allclose(found.scores, [0.72, 0.4], rtol=1e-6)
    assert found.boxes.tolist() == [[6, 8, 14, 12]] * 2


class Oracle:
    """A predictor that knows the answer: one row an object, then rows of nothing; ``spoil`` edits the rows."""

    def __init__(self, limit: int, spoil: Any = None) -> None:
        data = shapes.Shapes("val")
        self.rows = np.zeros((limit, 8, 5 + len(shapes.CLASSES)), np.float32)
        for i in range(limit):
            for k, (box, label) in enumerate(zip(data[i].boxes, data[i].labels, strict=True)):
                self.rows[i, k, :5] = [*(box[:2] + box[2:]) / 2, *(box[2:] - box[:2]), 1]
                self.rows[i, k, 5 + label] = 1
        if spoil:
            spoil(self.rows)
        self.at = 0

    def __call__(self, images: Any) -> Any:
        self.at += len(images)
        return self.rows[self.at - len(images) : self.at]


def test_ground_truth_scores_one() -> None:
    scores = evaluate.evaluate(Oracle(30), limit=30, batch=7)
    assert scores["mAP"] == scores["AP50"] == scores["AP75"] == scores["AR100"] == pytest.approx(1.0)
    assert all(scores[f"AP_{name}"] == pytest.approx(1.0) for name in shapes.CLASSES)


def test_wrong_classes_shifted_boxes_and_silence_score_less() -> None:
    def wrong_class(rows: Any) -> None:
        rows[..., 5:] = np.roll(rows[..., 5:], 1, axis=-1)

    def shifted(rows: Any) -> None:
        rows[..., 0] += 0.2 * rows[..., 2]  # IoU 0.8 / 1.2 = 0.667 with the truth

    def silent(rows: Any) -> None:
        rows[..., 4] = 0

    assert evaluate.evaluate(Oracle(10, wrong_class), limit=10)["mAP"] < 0.05
    moved = evaluate.evaluate(Oracle(10, shifted), limit=10)
    assert moved["AP50"] == pytest.approx(1.0) and moved["AP75"] == 0
    assert moved["mAP"] == pytest.approx(0.4)  # IoU 0.50, 0.55, 0.60, 0.65 of ten thresholds
    assert evaluate.evaluate(Oracle(10, silent), limit=10)["mAP"] == 0


def test_draw_marks_the_box() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    found = evaluate.Detections(
        np.array([[8, 8, 24, 24]], np.float32), np.array([0.9], np.float32), np.array([2], np.int64)
    )
    picture = evaluate.draw(image, found, scale=4, caption="float")
    assert picture.size == (128, 128)
    assert picture.getpixel((32, 80)) == evaluate.PALETTE[2]
    assert picture.getpixel((64, 64)) == (0, 0, 0)
    assert evaluate.side_by_side([picture] * 3, columns=2).size == (256, 256)


# -- the loss


def perfect_raw(targets: losses.Targets, grids: Any, strides: Any, classes: int) -> Any:
    """Raw outputs that are right: the cells whose centre is near an object predict exactly that object."""
    centers = ((grids + 0.5) * strides)[0]
    raw = torch.full((len(targets.boxes), grids.shape[1], 5 + classes), -12.0)
    raw[..., :4] = 0
    for n in range(len(raw)):
        for box, label, valid in zip(targets.boxes[n], targets.labels[n], targets.valid[n], strict=True):
            if valid:
                near = (centers - box[:2]).abs().amax(-1) < 1.5 * strides[0, :, 0]
                raw[n, near, :2] = (box[:2] / strides[0] - grids[0])[near]
                raw[n, near, 2:4] = torch.log(box[2:] / strides[0])[near]
                raw[n, near, 4] = 12.0
                raw[n, near, 5:] = -12.0
                raw[n, near, 5 + int(label)] = 12.0
    return raw


def test_right_predictions_are_assigned_and_cost_nothing() -> None:
    grids, strides = yolox.grids_and_strides([(16, 16), (8, 8), (4, 4)], torch.float32)
    targets = losses.Targets(
        torch.tensor([[[30.0, 40, 20, 24], [90, 90, 40, 40]], [[64, 64, 30, 30], [0, 0, 0, 0]]]),
        torch.tensor([[0, 3], [4, 0]]),
        torch.tensor([[True, True], [True, False]]),
    )
    raw = perfect_raw(targets, grids, strides, 5)
    boxes = torch.cat(((raw[..., :2] + grids) * strides, raw[..., 2:4].exp() * strides), -1)
    centers = ((grids + 0.5) * strides)[0]
    foreground, index, iou = losses.simota(boxes, raw[..., 4], raw[..., 5:], centers, strides[0, :, 0], targets)
    # ten candidates of IoU 1 give each object k = 10 (float rounding may give 9), and the padding gives nobody one
    assert 18 <= int(foreground[0].sum()) <= 20 and 9 <= int(foreground[1].sum()) <= 10
    assert (index[1][foreground[1]] == 0).all() and (iou[foreground] > 0.999).all()
    found = losses.yolox_loss(raw, grids, strides, targets, use_l1=True)
    assert float(found["iou"]) < 1e-3 and float(found["cls"]) < 1e-3 and float(found["l1"]) < 1e-4
    spoiled = raw.clone()
    spoiled[..., 0] += 0.5
    worse = losses.yolox_loss(spoiled, grids, strides, targets, use_l1=True)
    assert float(worse["iou"]) > 0.1 and float(worse["l1"]) > 0.4


def test_an_anchor_wanted_twice_goes_to_one_object() -> None:
    grids, strides = yolox.grids_and_strides([(16, 16), (8, 8), (4, 4)], torch.float32)
    boxes = torch.tensor([[[60.0, 60, 30, 30], [62, 62, 50, 50]]])
    targets = losses.Targets(boxes, torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool))
    raw = perfect_raw(targets, grids, strides, 5)
    decoded = torch.cat(((raw[..., :2] + grids) * strides, raw[..., 2:4].exp() * strides), -1)
    centers = ((grids + 0.5) * strides)[0]
    foreground, index, _ = losses.simota(decoded, raw[..., 4], raw[..., 5:], centers, strides[0, :, 0], targets)
    # the second object's cells were written last: all near cells predict it
    assert foreground.any() and set(index[foreground].tolist()) == {1}


def test_images_without_objects_train_only_objectness() -> None:
    grids, strides = yolox.grids_and_strides([(4, 4), (2, 2), (1, 1)], torch.float32)
    nothing = losses.Targets(torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1).bool())
    raw = torch.zeros(1, grids.shape[1], 10, requires_grad=True)
    found = losses.yolox_loss(raw, grids, strides, nothing, use_l1=True)
    found["total"].backward()
    values = {key: float(value.detach()) for key, value in found.items()}
    assert values["obj"] > 0 and values["iou"] == values["cls"] == values["l1"] == 0
    assert raw.grad is not None and torch.isfinite(raw.grad).all()


# -- the training and its result


def test_training_writes_weights_that_load_and_improves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.LENGTHS, "val", 4)
    monkeypatch.setitem(shapes.LENGTHS, "train", 4)  # the same four images again and again: the loss must fall
    monkeypatch.setattr(train, "BATCH", 4)
    monkeypatch.setattr(train, "WARMUP", 2)
    totals = []
    original = train.yolox_loss

    def recorded(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        totals.append(float(found["total"].detach()))
        return found

    monkeypatch.setattr(train, "yolox_loss", recorded)
    train.train(40, tmp_path / "w.pt", tmp_path / "s.pt", resume=None, seed=0)
    assert np.mean(totals[26:32]) < 0.8 * np.mean(totals[:6])  # the last fifth has the L1 loss too
    saved = torch.load(tmp_path / "w.pt", weights_only=True)
    yolox.yolox_nano_shapes().load_state_dict(saved["model"], strict=True)
    assert saved["classes"] == list(shapes.CLASSES)
    assert [p.name for p in tmp_path.iterdir()] == ["w.pt"]  # no temporary file stays


def test_committed_weights_detect() -> None:
    pytest.importorskip("skimage")
    assert evaluate.WEIGHTS.stat().st_size < 5_000_000
    saved = torch.load(evaluate.WEIGHTS, weights_only=True)
    assert all(v.dtype in (torch.float32, torch.int64) for v in saved["model"].values())
    scores = evaluate.evaluate(evaluate.torch_predictor(evaluate.trained_model("legacy")), limit=60, batch=20)
    assert scores["mAP"] > 0.65
