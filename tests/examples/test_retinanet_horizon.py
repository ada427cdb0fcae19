# SPDX-License-Identifier: Apache-2.0
"""RetinaNet's matching and losses (examples/retinanet_horizon), and its two configurations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")

from examples.detection.data import Detection, collate  # noqa: E402
from examples.detection.postprocess import Anchors, RetinaNetMultiStrideFilter, apply_offsets  # noqa: E402
from examples.retinanet_horizon.losses import BACKGROUND, IGNORED, RetinaNetLoss, match, offsets_to  # noqa: E402
from examples.retinanet_horizon.retinanet import OUTPUTS, RetinaNet  # noqa: E402
from examples.yolox_mlu270.shapes import Shapes  # noqa: E402
from porter.train.config import load_config  # noqa: E402

HERE = Path(__file__).parents[2] / "examples" / "retinanet_horizon"
ANCHORS = Anchors(base_sizes=(16, 32, 64, 128, 256))
SIZES = (16, 8, 4, 2, 1)


def random_boxes(rng, shape, side):
    """Boxes of at least 4 pixels."""
    corners = np.sort(rng.uniform(0, side, (*shape, 2, 2)), -2).reshape(*shape, 4)
    corners[..., 2:] += 4
    return corners


def all_anchors() -> torch.Tensor:
    return torch.tensor(np.concatenate([ANCHORS.grid(i, s, s) for i, s in enumerate(SIZES)]), dtype=torch.float32)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_offsets_are_undone_by_decoding(seed):
    rng = np.random.default_rng(seed)
    anchors, boxes = (random_boxes(rng, (5,), 90) for _ in range(2))
    offsets = offsets_to(torch.tensor(anchors), torch.tensor(boxes)).numpy()
    np.testing.assert_allclose(apply_offsets(anchors, offsets), boxes, atol=1e-9)


def test_offsets_by_hand():
    anchor, box = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 10, 25, 20]])
    np.testing.assert_allclose(offsets_to(anchor, box)[0], [1, 0.25, np.log(2), np.log(0.5)], rtol=1e-6)


def test_matching_by_hand():
    """IoU 1, 0.45 and 0.2 with an object; one that only a bad anchor reaches, which is its own all the same."""
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 4.5], [0, 0, 10, 2], [50, 50, 60, 60], [80, 80, 90, 90]])
    boxes = torch.tensor([[[0.0, 0, 10, 10], [50, 50, 53, 60], [0, 0, 99, 99]]])
    valid = torch.tensor([[True, True, False]])
    assert match(anchors, boxes, valid).tolist() == [[0, IGNORED, BACKGROUND, 1, BACKGROUND]]
    assert match(anchors, boxes, ~valid).tolist()[0][0] in (BACKGROUND, 2)
    none = torch.zeros(1, 3, dtype=torch.bool)
    assert match(anchors, boxes, none).tolist() == [[BACKGROUND] * 5]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_matching_keeps_its_promises(seed):
    rng = np.random.default_rng(seed)
    corners = random_boxes(rng, (2, 3), 128)
    boxes, valid = torch.tensor(corners, dtype=torch.float32), torch.tensor(rng.random((2, 3)) < 0.7)
    anchors = all_anchors()
    found = match(anchors, boxes, valid)
    for n in range(2):
        low = np.maximum(corners[n, :, None, :2], anchors.numpy()[:, :2])
        high = np.minimum(corners[n, :, None, 2:], anchors.numpy()[:, 2:])
        inter = np.clip(high - low, 0, None).prod(-1)
        areas = [(b[..., 2:] - b[..., :2]).prod(-1) for b in (corners[n], anchors.numpy())]
        iou = inter / (areas[0][:, None] + areas[1] - inter) * valid[n].numpy()[:, None]
        clear = found[n].numpy()
        assert set(clear[clear >= 0]) <= set(np.flatnonzero(valid[n]))
        assert (clear[(iou > 0.501).any(0)] >= 0).all()
        assert (iou.max(0)[clear == BACKGROUND] < 0.4001).all()
        # every object has the anchor that fits it best, or a better object took that one
        for g in np.flatnonzero(valid[n]):
            assert clear[iou[g].argmax()] >= 0


def test_a_perfect_prediction_is_found_and_costs_nothing():
    """Logits and offsets written from the targets decode to the objects, and have a loss of almost 0."""
    batch = collate([Detection(Shapes("val"))[i] for i in range(2)])
    anchors = all_anchors()
    index = match(anchors, batch["boxes"], batch["valid"])
    cls, bbox = torch.full((2, len(anchors), 5), -20.0), torch.zeros(2, len(anchors), 4)
    for n in range(2):
        own = index[n] >= 0
        cls[n, own, batch["labels"][n, index[n, own]]] = 20.0
        bbox[n, own] = offsets_to(anchors[own], batch["boxes"][n, index[n, own]])
    outputs, start = [], 0
    for part in (cls, bbox):
        start = 0
        for size in SIZES:
            rows = part[:, start : start + size * size * 9]
            outputs.append(rows.reshape(2, size, size, -1).permute(0, 3, 1, 2).contiguous())
            start += size * size * 9
    losses = RetinaNetLoss(ANCHORS)(outputs, batch)
    assert losses["cls"] < 1e-6 and losses["reg"] < 1e-9
    detections = RetinaNetMultiStrideFilter(ANCHORS, max_shape=(128, 128))([o.numpy() for o in outputs])
    for n, found in enumerate(detections):
        wanted = batch["boxes"][n][batch["valid"][n]].tolist()
        assert sorted(found.boxes.round(2).tolist()) == sorted(wanted)
        assert sorted(found.labels) == sorted(batch["labels"][n][batch["valid"][n]].tolist())


def test_an_image_without_objects_teaches_background_only():
    batch = collate([Detection(Shapes("val"))[0]])
    batch["valid"] = torch.zeros_like(batch["valid"])
    outputs = [torch.zeros(1, c, s, s, requires_grad=True) for c in (45, 36) for s in SIZES]
    losses = RetinaNetLoss(ANCHORS)(outputs, batch)
    # probabilities of one half: 0.75 / 4 * ln 2 for each class of each anchor
    expected = 9 * 5 * sum(s * s for s in SIZES) * 0.75 * 0.25 * np.log(2)
    assert losses["reg"] == 0 and losses["cls"].item() == pytest.approx(expected, rel=1e-5)
    sum(losses.values()).backward()


def test_training_a_tiny_one_lowers_the_loss():
    torch.manual_seed(0)
    model = RetinaNet(5, alpha=0.5, channels=16, stacked=1)
    batch = collate([Detection(Shapes("val"))[i] for i in range(4)])
    optimizer, loss_of, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), RetinaNetLoss(ANCHORS), []
    for _ in range(30):
        loss = sum(loss_of(model(batch["img"]), batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.6 * np.mean(losses[:3])


@pytest.mark.parametrize("name", ["config", "small"])
def test_the_configurations_load_and_their_models_fit(name):
    config = load_config(HERE / f"{name}.py")
    assert config.output_names == OUTPUTS and config.target == "x5" and config.monitor == "mAP"
    assert config.calibration_trainer.observer == "mix" and config.qat_trainer is not None
    assert config.outputs == {"int16_output": True}
    (img,) = config.deploy_inputs.values()
    assert img.shape == ((1, 3, 1024, 1024) if name == "config" else (1, 3, 128, 128))
    with torch.no_grad():
        outputs = config.deploy_model().eval()(img[..., :128, :128])
    assert len(outputs) == len(OUTPUTS) and outputs[0].shape[1] == (720 if name == "config" else 45)
    assert config.post_process([o.numpy() for o in outputs]).shape[1] == 6


def test_the_full_size_settings_are_the_published_ones():
    config = load_config(HERE / "config.py")
    trainer = config.float_trainer
    assert (trainer.optimizer.lr, trainer.optimizer.rest) == (0.01, {"momentum": 0.9})
    assert trainer.optimizer.params == {"weight": {"weight_decay": 5e-5}}
    assert (trainer.num_epochs, trainer.schedule.type, trainer.schedule.decay_epochs) == (12, "step", (8, 11))
    assert trainer.schedule.warmup_epochs == 0.3 and trainer.sync_bn
