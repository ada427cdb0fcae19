# SPDX-License-Identifier: Apache-2.0
"""The pruning example (examples/yolov3_prune): Darknet files, four architectures, and what pruning makes of them."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")

import porter  # noqa: E402
from examples.yolov3_prune import architectures, darknet, train  # noqa: E402
from examples.yolov3_prune.darknet import Darknet  # noqa: E402

SMALL = {"yolov3": 0.1, "yolov3-spp": 0.1, "yolov3-tiny": 0.1, "yolov3-mobilenetv2": 0.25}


def randomize(model, seed=0):
    """Statistics and betas away from their defaults, gammas from 0 to 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                count = module.num_features
                module.weight.copy_(torch.rand(count, generator=generator))
                module.bias.copy_(torch.randn(count, generator=generator) * 0.1)
                module.running_mean.copy_(torch.randn(count, generator=generator) * 0.1)
                module.running_var.copy_(torch.rand(count, generator=generator) + 0.5)
    return model.eval()


# The sizes of the files that pjreddie.com publishes beside the .cfg of the same name.
@pytest.mark.parametrize(
    ("name", "size"), [("yolov3", 248_007_048), ("yolov3-spp", 252_209_544), ("yolov3-tiny", 35_434_956)]
)
def test_the_architectures_hold_as_much_as_the_published_weights(name, size, tmp_path):
    with torch.device("meta"):
        model = Darknet(architectures.cfg_text(name))
    assert 20 + 4 * sum(t.numel() for layer in model.convolutions() for t in stored(layer)) == size


def stored(layer):
    yield layer.conv.weight
    if layer.bn is None:
        yield layer.conv.bias
    else:
        yield from (layer.bn.weight, layer.bn.bias, layer.bn.running_mean, layer.bn.running_var)


def test_outputs_are_rows_of_all_scales_decoded():
    model = Darknet(architectures.shapes_cfg("yolov3-tiny", 0.1))
    with torch.no_grad():
        for head in (layer.conv for layer in model.convolutions() if layer.bn is None):
            head.weight.zero_()
            head.bias.zero_()
        rows = model.eval()(torch.zeros(1, 3, 128, 128))[0]
        raw = model.train()(torch.zeros(1, 3, 128, 128))
    assert rows.shape == (3 * (16 + 64), 10) and not raw.any()
    # Raw zeros decode to the middle of the cell and to the anchor; the coarse scale comes first.
    np.testing.assert_allclose(rows[0, :4], [16, 16, *architectures.SHAPES_ANCHORS[7]])
    np.testing.assert_allclose(rows[5, :4], [48, 48, *architectures.SHAPES_ANCHORS[7]])
    np.testing.assert_allclose(rows[48, :4], [8, 8, *architectures.SHAPES_ANCHORS[1]])
    assert (rows[:, 4:] == 0.5).all()


def test_maxpool_pads_as_darknet_does():
    x = torch.tensor([[-4.0, -3, -2], [-1, -9, -8], [-7, -6, -5]])[None, None]
    same = darknet.MaxPool(2, 1)(x)[0, 0]
    assert same.tolist() == [[-1, -2, -2], [-1, -5, -5], [-6, -5, -5]]
    assert darknet.MaxPool(5, 1)(x)[0, 0].tolist() == [[-1, -1, -1]] * 3
    assert darknet.MaxPool(2, 2)(torch.arange(16.0).view(1, 1, 4, 4))[0, 0].tolist() == [[5, 7], [13, 15]]


def test_cfg_text_survives_parsing():
    text = architectures.cfg_text("yolov3-spp")
    sections = darknet.parse_cfg("# comment\n" + text.replace("=", " = "))
    assert darknet.format_cfg([(s.kind, s.options) for s in sections]) == text


def test_weights_are_written_in_darknets_order_and_read_back(tmp_path):
    text = darknet.format_cfg(
        [
            ("net", {"width": 32, "height": 32, "channels": 3}),
            ("convolutional", {"batch_normalize": 1, "filters": 2, "size": 1, "activation": "leaky"}),
            ("convolutional", {"filters": 6, "size": 1, "activation": "linear"}),
            ("yolo", {"mask": "0", "anchors": "10,10", "classes": 1, "num": 1}),
        ]
    )
    model = randomize(Darknet(text))
    path = tmp_path / "net.weights"
    darknet.save_weights(model, path, seen=7)
    data = path.read_bytes()
    assert struct.unpack("<iiiq", data[:20]) == (0, 2, 0, 7)
    values = np.frombuffer(data, "<f4", offset=20)
    conv, norm, head = model.layers[0].conv, model.layers[0].bn, model.layers[1].conv
    order = [norm.bias, norm.weight, norm.running_mean, norm.running_var, conv.weight, head.bias, head.weight]
    np.testing.assert_array_equal(values, np.concatenate([t.detach().numpy().ravel() for t in order]))

    again = Darknet(text).eval()
    assert darknet.load_weights(again, path) == 7
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(again(x), model(x))
    # The older header has a counter of 32 bits.
    path.write_bytes(struct.pack("<iiii", 0, 1, 0, 9) + data[20:])
    assert darknet.load_weights(again, path) == 9 and torch.equal(again(x), model(x))
    path.write_bytes(data[:-4])
    with pytest.raises(ValueError, match="the network has"):
        darknet.load_weights(again, path)


NET = "[net]\nwidth=32\nheight=32\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "starts with"),
        ("[convolutional]\nfilters=1\n", "starts with"),
        ("width=32\n", "neither"),
        (NET + "what\n", "line 4"),
        (NET + "[convolutional]\nsize=1\nactivation=linear\n", "line 4.*needs filters"),
        (NET + "[convolutional]\nfilters=2\nactivation=swirl\n", "line 4.*swirl"),
        (NET + "[recurrent]\n", "line 4.*recurrent"),
        (NET + "[route]\nlayers=-1\n", "line 4.*does not come before"),
        (NET + "[yolo]\nmask=0\nanchors=1,1\nclasses=1\n", "needs 6 channels"),
        (NET + "[maxpool]\nsize=2\nstride=2\n", "no .yolo. layer"),
    ],
)
def test_a_cfg_that_is_none_says_which_line(text, message):
    with pytest.raises(ValueError, match=message):
        Darknet(text)


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_every_architecture_is_pruned_for_the_mlu270_and_stays_a_darknet(name, tmp_path):
    model = randomize(Darknet(architectures.shapes_cfg(name, SMALL[name])))
    shortcuts = 1 if name != "yolov3-tiny" else 0
    made = porter.prune(model, "mlu270", "images:1x3x128x128", percent=0.3, shortcuts=shortcuts, latency=False)
    assert made.ok and made.structure < 1e-5
    assert made.stages[-1].macs < 0.95 * made.stages[0].macs
    darknet.save_weights(made.module, tmp_path / "pruned.weights")
    again = Darknet(darknet.cfg_of(made.module)).eval()
    darknet.load_weights(again, tmp_path / "pruned.weights")
    x = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(again(x), made.module(x))
    assert sum(p.numel() for p in again.parameters()) == made.stages[-1].parameters


def test_the_committed_weights_detect_and_training_lowers_the_loss(monkeypatch):
    monkeypatch.setattr(train, "EPOCH", 10)
    torch.manual_seed(0)
    model = train.trained_network()
    assert train.mean_average_precision(model, limit=30) > 0.6
    said: list[str] = []
    fresh = train.shapes_network("yolov3-tiny", 0.1)
    sparse = train.SparseTraining(fresh, 1e-3)
    average = train.fit(fresh, 2 * train.EPOCH, sparse=sparse, say=said.append)
    losses = [float(line.split("total")[1].split()[0]) for line in said]
    assert all(second < first for first, second in pairwise(losses))
    assert sparse.history.epochs == [0, 1, 2] and not average.training
