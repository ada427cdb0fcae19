# SPDX-License-Identifier: Apache-2.0
"""FCOS's targets and losses (examples/fcos_horizon), and its two configurations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")

from examples.detection.boxes import focal_loss, giou  # noqa: E402
from examples.detection.data import Detection, collate  # noqa: E402
from examples.detection.postprocess import FcosMultiStrideFilter  # noqa: E402
from examples.fcos_horizon.bifpn import STRIDES  # noqa: E402
from examples.fcos_horizon.fcos import OUTPUTS, Fcos  # noqa: E402
from examples.fcos_horizon.losses import FcosLoss, cells_of, centerness_of, dynamic_targets  # noqa: E402
from examples.yolox_mlu270.shapes import Shapes  # noqa: E402
from porter.train.config import load_config  # noqa: E402

HERE = Path(__file__).parents[2] / "examples" / "fcos_horizon"


def outputs_of(seed: int, classes: int = 3, images: int = 2, side: int = 128):
    generator = torch.Generator().manual_seed(seed)
    sizes = [side // s for s in STRIDES]
    return [torch.randn(images, c, s, s, generator=generator) + (c == 4) for c in (classes, 4, 1) for s in sizes]


def random_objects(seed: int, images: int = 2, most: int = 4, side: int = 128):
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, side, (images, most, 2, 2)), 2)
    boxes = torch.tensor(corners.reshape(images, most, 4), dtype=torch.float32)
    labels = torch.tensor(rng.integers(3, size=(images, most)))
    return boxes, labels, torch.tensor(rng.random((images, most)) < 0.7)


def plain_targets(cells, boxes, labels, valid, topk=10):
    """One image, one object, one cell at a time."""
    foreground = torch.zeros(cells.logits.shape[:2], dtype=torch.bool)
    index = torch.zeros(cells.logits.shape[:2], dtype=torch.int64)
    for n in range(len(boxes)):
        taken: dict[int, float] = {}
        for g in range(boxes.shape[1]):
            x0, y0, x1, y1 = boxes[n, g]
            rows = []
            for a, (x, y) in enumerate(cells.centers):
                if not valid[n, g] or not (x0 < x < x1 and y0 < y < y1):
                    continue
                one_hot = torch.zeros(cells.logits.shape[-1])
                one_hot[labels[n, g]] = 1
                cost = focal_loss(cells.logits[n, a], one_hot).sum() + 2 * (1 - giou(boxes[n, g], cells.boxes[n, a]))
                rows.append((cost.item(), a, iou(boxes[n, g], cells.boxes[n, a])))
            k = max(1, int(sum(sorted((r[2] for r in rows), reverse=True)[:topk])))
            for cost, a, _ in sorted(rows)[:k]:
                if a not in taken or cost < taken[a]:
                    taken[a] = cost
                    foreground[n, a], index[n, a] = True, g
    return foreground, index


def iou(a, b):
    low, high = torch.maximum(a[:2], b[:2]), torch.minimum(a[2:], b[2:])
    inter = (high - low).clamp(min=0).prod().item()
    return inter / max((a[2:] - a[:2]).prod().item() + (b[2:] - b[:2]).clamp(min=0).prod().item() - inter, 1e-9)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_targets_are_those_of_one_object_after_another(seed):
    cells = cells_of(outputs_of(seed))
    objects = random_objects(seed)
    foreground, index = dynamic_targets(cells, *objects)
    wanted, wanted_index = plain_targets(cells, *objects)
    assert torch.equal(foreground, wanted)
    assert torch.equal(index[foreground], wanted_index[wanted])


def test_no_more_than_ten_cells_an_object():
    """An object that every cell predicts perfectly gets its ten; one that none predicts gets one."""
    outputs = [torch.zeros(1, c, 128 // s, 128 // s) for c in (2, 4, 1) for s in STRIDES]
    box = torch.tensor([8.0, 8, 120, 120])
    places = cells_of(outputs).centers
    for level, stride in enumerate(STRIDES):
        size = 128 // stride
        own = places[sum((128 // s) ** 2 for s in STRIDES[:level]) :][: size**2]
        sides = torch.cat((own - box[:2], box[2:] - own), 1) / stride
        outputs[5 + level] = sides.T.reshape(1, 4, size, size)
    boxes, labels = box[None, None], torch.zeros(1, 1, dtype=torch.int64)
    valid = torch.ones(1, 1, dtype=torch.bool)
    assert dynamic_targets(cells_of(outputs), boxes, labels, valid)[0].sum() == 10
    bad = [*outputs[:5], *(torch.full_like(o, 0.01) for o in outputs[5:10]), *outputs[10:]]
    assert dynamic_targets(cells_of(bad), boxes, labels, valid)[0].sum() == 1
    assert dynamic_targets(cells_of(outputs), boxes, labels, ~valid)[0].sum() == 0


def test_cells_are_decoded_as_the_filter_decodes_them():
    outputs = outputs_of(5, images=1)
    outputs[:5] = [o + 3 for o in outputs[:5]]
    cells = cells_of(outputs)
    everything = FcosMultiStrideFilter(
        threshold=-99, score_threshold=0, iou_threshold=1, max_shape=(10**6, 10**6), most=10**6
    )
    found = everything([o.numpy() for o in outputs])[0]
    assert len(found.scores) == cells.boxes.shape[1] == 341
    best = cells.logits[0].max(-1)
    score = (best.values.sigmoid() * cells.centerness[0].sigmoid()).sqrt()
    order = score.argsort(descending=True)
    np.testing.assert_allclose(found.scores, score[order], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, cells.boxes[0].clamp(min=0)[order], atol=1e-3)


def test_centerness_by_hand():
    boxes = torch.tensor([[0.0, 0, 8, 8]] * 3)
    places = torch.tensor([[4.0, 4], [2, 4], [2, 6]])
    torch.testing.assert_close(centerness_of(places, boxes), torch.tensor([1.0, (1 / 3) ** 0.5, 1 / 3]))


def test_a_perfect_prediction_costs_almost_nothing_and_an_empty_image_no_box():
    batch = collate([Detection(Shapes("val"))[i] for i in range(2)])
    outputs = [o.detach().requires_grad_() for o in outputs_of(1, classes=5)]
    empty = {**batch, "valid": torch.zeros_like(batch["valid"])}
    found = FcosLoss()(outputs, empty)
    assert found["reg"] == found["centerness"] == 0 and found["cls"] > 1
    sum(found.values()).backward()
    assert all(o.grad is None or torch.isfinite(o.grad).all() for o in outputs)
    certain = [torch.full_like(o, -20.0) for o in outputs[:5]]
    assert FcosLoss()([*certain, *outputs[5:]], empty)["cls"] < 1e-6


def test_training_a_tiny_one_lowers_the_loss_and_finds_the_objects():
    torch.manual_seed(0)
    model = Fcos(5, width=0.25, channels=16, stack=1, stacked=1)
    batch = collate([Detection(Shapes("val"))[i] for i in range(4)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        loss = sum(FcosLoss()(model(batch["img"]), batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.75 * np.mean(losses[:3])


@pytest.mark.parametrize("name", ["config", "small"])
def test_the_configurations_load_and_their_models_fit(name):
    config = load_config(HERE / f"{name}.py")
    assert config.output_names == OUTPUTS and config.target == "x5" and config.monitor == "mAP"
    assert config.float_trainer is not None and config.calibration_trainer is not None
    assert config.qat_trainer is not None and config.qat_trainer.qat_mode == "fuse_bn"
    assert config.outputs == {"int16_output": True}
    assert config.float_trainer.num_epochs == (300 if name == "config" else 5)
    model = config.deploy_model().eval()
    (img,) = config.deploy_inputs.values()
    assert img.shape == ((1, 3, 512, 512) if name == "config" else (1, 3, 128, 128))
    with torch.no_grad():
        outputs = model(img[..., :128, :128])
    assert len(outputs) == len(OUTPUTS) and outputs[0].shape[1] == (80 if name == "config" else 5)
    assert config.post_process([o.numpy() for o in outputs]).shape[1] == 6


def test_the_full_size_settings_are_the_published_ones():
    config = load_config(HERE / "config.py")
    float_, qat = config.float_trainer, config.qat_trainer
    assert (float_.optimizer.lr, float_.optimizer.rest) == (0.14, {"momentum": 0.937, "nesterov": True})
    assert float_.optimizer.params == {"weight": {"weight_decay": 4e-5}}
    assert (float_.schedule.type, float_.schedule.warmup_epochs, float_.ema, float_.sync_bn) == (
        "cosine",
        2,
        True,
        True,
    )
    assert (qat.optimizer.lr, qat.num_epochs, qat.schedule.decay_epochs) == (0.001, 10, (4,))
    assert config.calibration_trainer.num_steps == 10 and config.data_loader.batch_size == 24
