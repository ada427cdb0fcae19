# SPDX-License-Identifier: Apache-2.0
"""The two Horizon detectors: sizes against the arithmetic of their layer tables, shapes, legality on the targets."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import porter  # noqa: E402
from examples.detection.layers import norm_over_levels  # noqa: E402
from examples.fcos_horizon import fcos  # noqa: E402
from examples.fcos_horizon.bifpn import BiFpnLayer  # noqa: E402
from examples.fcos_horizon.fcos import Fcos  # noqa: E402
from examples.retinanet_horizon import retinanet  # noqa: E402
from examples.retinanet_horizon.retinanet import RetinaNet  # noqa: E402
from examples.retinanet_horizon.vargnet import VarGNetV2  # noqa: E402
from porter.dialects.fx import FxGraph  # noqa: E402
from porter.latency import count  # noqa: E402

# Parameters and multiply-accumulates of each part, computed by hand from the layer tables. A separable convolution of
# FCOS's heads, for one: 9 * 64 + 64 + 128 depthwise with bias and norm, 64 * 64 + 64 + 128 pointwise, eight of them,
# and 9 * 64 + 1 for each of the 80 + 4 + 1 channels of the last convolutions, are 89,493 parameters.
SIZES = {
    "separable": (
        lambda: Fcos(), 512,
        {"backbone": (2_958_848, 1_900_863_488), "neck": (196_224, 136_203_264), "head": (89_493, 471_049_216)},
        (3.24, 2.51),
    ),
    "plain": (
        lambda: Fcos(separable=False), 512,
        {"backbone": (2_958_848, 1_900_863_488), "neck": (196_224, 136_203_264), "head": (345_493, 1_876_165_632)},
        (3.50, 3.91),
    ),
    "retinanet": (
        lambda: RetinaNet(), 1024,
        {"backbone": (2_336_576, 7_237_271_552), "neck": (3_065_856, 13_342_081_024),
         "head": (6_463_220, 140_992_118_784)},
        (11.87, 161.57),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_the_layer_tables(name):
    factory, side, parts, total = SIZES[name]
    counts = count(FxGraph.capture(factory().eval(), [("img", (1, 3, side, side), "float32")]))
    assert parts == {
        part: (
            sum(c.params for c in counts if c.path.split(".")[0] == part),
            sum(c.macs for c in counts if c.path.split(".")[0] == part),
        )
        for part in parts
    }
    assert round(sum(c.params for c in counts) / 1e6, 2) == total[0]
    assert round(sum(c.macs for c in counts) / 1e9, 2) == total[1]


@pytest.mark.parametrize("target", ["x5", "j5"])
@pytest.mark.parametrize("name", ["separable", "retinanet"])
def test_the_deploy_models_are_legal_at_full_size(name, target):
    factory, side, _, _ = SIZES[name]
    report = porter.check(factory().eval(), target, {"img": (1, 3, side, side)})
    assert report.ok, report.findings
    assert set(report.summary) == {"native"}


def test_outputs_of_fcos_in_their_order():
    with torch.no_grad():
        outputs = Fcos(7, width=0.25, channels=16, stack=2, stacked=1).eval()(torch.zeros(2, 3, 256, 128))
    grids = [(32, 16), (16, 8), (8, 4), (4, 2), (2, 1)]
    assert [tuple(o.shape) for o in outputs] == [(2, c, h, w) for c in (7, 4, 1) for h, w in grids]
    assert fcos.OUTPUTS[:6] == ("cls_8", "cls_16", "cls_32", "cls_64", "cls_128", "bbox_8") and len(fcos.OUTPUTS) == 15
    # An untrained head: classes at a probability of 0.01, boxes of four cells.
    assert all((o.sigmoid() - 0.01).abs().max() < 0.01 for o in outputs[:5])
    assert all((o - 2).abs().max() < 1 for o in outputs[5:10])


def test_outputs_of_retinanet_in_their_order():
    with torch.no_grad():
        outputs = RetinaNet(7, alpha=0.5, channels=16, stacked=1).eval()(torch.zeros(2, 3, 256, 128))
    grids = [(32, 16), (16, 8), (8, 4), (4, 2), (2, 1)]
    assert [tuple(o.shape) for o in outputs] == [(2, c, h, w) for c in (63, 36) for h, w in grids]
    assert retinanet.OUTPUTS[4:6] == ("cls_128", "bbox_8") and len(retinanet.OUTPUTS) == 10


def test_vargnet_keeps_whole_groups():
    assert VarGNetV2().channels == {2: 32, 4: 32, 8: 64, 16: 128, 32: 256}
    with pytest.raises(ValueError, match="multiples of 8"):
        VarGNetV2(0.3)


def test_bifpn_sums_what_its_figure_shows():
    """With nodes that only add, ones everywhere: the weights of the paths from each input to each output."""
    layer = BiFpnLayer(1)
    for fuse in (*layer.top_down, *layer.bottom_up):
        fuse.depthwise = fuse.pointwise = torch.nn.Identity()
    sizes = (16, 8, 4, 2, 1)
    units = [[torch.full((1, 1, s, s), float(i == k)) for i, s in enumerate(sizes)] for k in range(5)]
    paths = [[int(o.max()) for o in layer(tuple(levels), (levels[1], levels[2]))] for levels in units]
    # rows: input of level 3 to 7; columns: outputs
    assert paths == [[1, 1, 1, 1, 1], [1, 3, 3, 3, 3], [1, 2, 4, 4, 4], [1, 2, 3, 5, 5], [1, 2, 3, 4, 5]]


def test_a_norm_over_levels_has_the_statistics_of_all_of_them():
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(3, 4, s, s, generator=generator) * (s + 1) for s in (5, 2, 1)]
    norm = torch.nn.BatchNorm2d(4, momentum=1.0)
    found = norm_over_levels(norm, levels)
    values = torch.cat([x.transpose(0, 1).flatten(1) for x in levels], 1)
    torch.testing.assert_close(norm.running_mean, values.mean(1))
    torch.testing.assert_close(norm.running_var, values.var(1))
    for x, y in zip(levels, found, strict=True):
        scale = (values.var(1, unbiased=False) + norm.eps).sqrt()
        torch.testing.assert_close(y, (x - values.mean(1)[:, None, None]) / scale[:, None, None])
    norm.eval()
    for x, y in zip(levels, norm_over_levels(norm, levels), strict=True):
        torch.testing.assert_close(y, norm(x))
