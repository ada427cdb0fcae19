# SPDX-License-Identifier: Apache-2.0
"""Calibration data: every source gives the same items, and what does not fit is named before the model runs."""

import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from porter.data import Preprocess, open_data, random_inputs
from porter.errors import PorterError, explain
from porter.ops import Value

IMAGES = [Value("images", (1, 3, 4, 6), "float32")]
TWO = [Value("x", (2, 3), "float32"), Value("ids", (2, 5), "int64")]


def code(error):
    assert error.value.code in explain(error.value.code)  # every code has its page
    return error.value.code


def samples(count, shape=(1, 3, 4, 6), seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def test_a_scalar_input_stays_a_scalar():
    inputs = [Value("x", (2,), "float32"), Value("rate", (), "int64")]
    for item in open_data([[np.zeros(2, np.float32), np.array(16000)]], inputs):
        assert item[1].shape == () and item[1].dtype == np.int64 and item[1] == 16000


def test_arrays_files_functions_and_lists_give_the_same_items(tmp_path, monkeypatch):
    stack = samples(5)
    np.save(tmp_path / "a.npy", stack[:, 0])
    np.save(tmp_path / "b.npy", stack)
    np.savez(tmp_path / "c.npz", images=stack[:, 0])
    np.savez(tmp_path / "d.npz", stack)
    (tmp_path / "calib_mod.py").write_text(
        "import numpy as np\nclass C:\n  @staticmethod\n  def items():\n"
        f"    for x in np.load({str(tmp_path / 'b.npy')!r}): yield {{'images': x}}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "calib_mod", raising=False)
    sources = [
        tmp_path / "a.npy",
        tmp_path / "b.npy",
        tmp_path / "c.npz",
        str(tmp_path / "d.npz"),
        "calib_mod:C.items",
        list(stack),
        stack,
        [[x] for x in stack],
        ({"images": x} for x in stack),
    ]
    for source in sources:
        data = open_data(source, IMAGES)
        assert len(data) == 5
        for _ in range(2):  # re-iterable
            items = list(data)
            assert len(items) == 5
            for item, want in zip(items, stack, strict=True):
                assert len(item) == 1
                np.testing.assert_array_equal(item[0], want)
                assert item[0].dtype == np.float32
        assert data.findings == []
        assert len(data.take(2)) == 2


def test_several_inputs_by_name_and_in_order(tmp_path):
    x = samples(5, (3,))
    ids = np.arange(25).reshape(5, 5)
    np.savez(tmp_path / "two.npz", ids=ids, x=x)
    data = open_data(tmp_path / "two.npz", TWO)
    assert len(data) == 3  # batches of two; the last one is filled with its last sample
    last = list(data)[2]
    np.testing.assert_array_equal(last[0], x[[4, 4]])
    np.testing.assert_array_equal(last[1], ids[[4, 4]])
    assert last[1].dtype == np.int64
    np.savez(tmp_path / "one.npz", x=x)
    with pytest.raises(PorterError, match="lacks ids") as error:
        open_data(tmp_path / "one.npz", TWO)
    assert code(error) == "PT402"
    np.savez(tmp_path / "uneven.npz", x=x, ids=ids[:2])
    with pytest.raises(PorterError, match="x 3, ids 1"):
        open_data(tmp_path / "uneven.npz", TWO)
    with pytest.raises(PorterError, match="3 arrays, the model 2 inputs"):
        open_data([[x[:2], ids[:2], ids[:2]]], TWO)
    with pytest.raises(PorterError, match="one array, the model has 2 inputs"):
        open_data([x[:2]], TWO)
    with pytest.raises(PorterError, match="has label, which is no input"):
        open_data([{"x": x[:2], "ids": ids[:2], "label": ids}], TWO)


@pytest.mark.parametrize(
    ("array", "message", "want"),
    [
        (np.zeros((1, 4, 6, 3), np.float32), "NHWC", "PT402"),
        (np.zeros((3, 4, 6), np.float32), "Add the batch axis", "PT402"),
        (np.zeros((2, 3, 4, 5), np.float32), "Make every item 1x3x4x6", "PT402"),
        (np.zeros((1, 3, 4, 6), np.complex64), "complex64", "PT402"),
        (np.array([["a"]]), "1x1", "PT402"),
        (np.full((1, 3, 4, 6), np.nan, np.float32), "72 of 72", "PT403"),
        (np.full((1, 3, 4, 6), np.inf, np.float32), "72 of 72", "PT403"),
    ],
)
def test_a_sample_that_does_not_fit(array, message, want):
    with pytest.raises(PorterError, match=message) as error:
        open_data([array], IMAGES)
    assert code(error) == want
    assert "sample 0" in error.value.where


def test_a_late_sample_that_does_not_fit_is_numbered():
    good = samples(3)
    bad = good.copy()
    bad[2, 0, 0, 0, 0] = np.nan
    with pytest.raises(PorterError, match="1 of 72"):
        list(open_data(list(bad), IMAGES))
    items = [*good, good[0][0]]
    with pytest.raises(PorterError) as error:
        list(open_data(items, IMAGES))
    assert "sample 3" in error.value.where


def test_floats_for_integers_and_numbers_that_do_not_fit():
    x = samples(1, (2, 3))[0]
    with pytest.raises(PorterError, match="ids is int64, but the sample is float32"):
        open_data([[x, np.zeros((2, 5), np.float32)]], TWO)
    with pytest.raises(PorterError, match="do not fit int8"):
        open_data([np.array([[300]])], [Value("q", (1, 1), "int8")])


@pytest.mark.parametrize("empty", [[], (), np.zeros((0, 3, 4, 6), np.float32), iter(())])
def test_no_samples(empty):
    with pytest.raises(PorterError) as error:
        open_data(empty, IMAGES)
    assert code(error) == "PT401"


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "pickled.npz", np.array([{"a": 1}], dtype=object))
    (tmp_path / "junk.npy").write_bytes(b"junk")
    (tmp_path / "junk.npz").write_bytes(b"PK junk")
    (tmp_path / "model.bin").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken_mod.py").write_text(
        "def items(): raise RuntimeError('no camera')\nnumber = 3\ndef three(): return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name, message, want in [
        ("pickled.npy", "would run code", "PT404"),
        ("pickled.npz", "would run code", "PT404"),
        ("junk.npy", "cannot be read", "PT404"),
        ("junk.npz", "cannot be read", "PT404"),
        ("model.bin", "neither a folder", "PT404"),
        ("missing.npy", "there is no file", "PT501"),
        ("nowhere", "is not there", "PT404"),
        ("empty", "holds no image", "PT401"),
    ]:
        with pytest.raises(PorterError, match=message) as error:
            open_data(tmp_path / name, IMAGES)
        assert code(error) == want
    for spec, message, want in [
        ("no_such_module:items", "no module no_such_module", "PT404"),
        ("broken_mod:missing", "has no 'missing'", "PT404"),
        ("broken_mod:number", "is a int, not a function", "PT404"),
        ("broken_mod:items", "no camera", "PT520"),
        ("broken_mod:three", "returned int", "PT404"),
    ]:
        with pytest.raises(PorterError, match=message) as error:
            open_data(spec, IMAGES)
        assert code(error) == want


def picture(path, height=8, width=6):
    """Every pixel knows where it is: R = row, G = column, B = 200."""
    rows, columns = np.indices((height, width))
    pixels = np.stack([rows, columns, np.full_like(rows, 200)], 2).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels.astype(np.float32)


def test_image_channels_layout_and_normalization(tmp_path):
    pixels = picture(tmp_path / "a.png", 4, 6)
    rgb = next(iter(open_data(tmp_path, IMAGES, Preprocess())))[0]
    np.testing.assert_array_equal(rgb[0], pixels.transpose(2, 0, 1))
    spec = Preprocess.from_mapping({"channels": "BGR", "scale": 1 / 255, "mean": [0.1, 0.2, 0.3], "std": 0.5})
    bgr = next(iter(open_data(tmp_path, IMAGES, spec)))[0][0]
    want = (pixels[:, :, ::-1] / 255 - np.array([0.1, 0.2, 0.3])) / 0.5
    np.testing.assert_allclose(bgr, want.transpose(2, 0, 1), atol=1e-6)
    nhwc = open_data(tmp_path, [Value("x", (1, 4, 6, 3), "float32")], Preprocess(layout="NHWC"))
    np.testing.assert_array_equal(next(iter(nhwc))[0][0], pixels)
    gray = open_data(tmp_path, [Value("x", (1, 1, 4, 6), "float32")], Preprocess(channels="GRAY"))
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(next(iter(gray))[0][0, 0], luma, atol=1)


def test_yuv444_is_bt601_at_full_swing(tmp_path):
    colors = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (100, 100, 100)]
    picture = Image.new("RGB", (6, 1))
    picture.putdata(colors)
    picture.save(tmp_path / "a.png")
    x = Preprocess(channels="YUV444", layout="NHWC").image(tmp_path / "a.png", (1, 6))[0]
    # By hand: red is 0.299 * 255 = 76.2, 128 - 0.168736 * 255 = 85.0, 128 + 0.5 * 255 = 255.5 cut to 255.
    want = [[0, 128, 128], [255, 128, 128], [76, 85, 255], [150, 44, 21], [29, 255, 107], [100, 128, 128]]
    np.testing.assert_array_equal(x, want)
    ycbcr = np.asarray(picture.convert("YCbCr"), np.float32)[0]
    assert np.abs(x - ycbcr).max() <= 1
    centred = Preprocess(channels="YUV444_128").image(tmp_path / "a.png", (1, 6))
    np.testing.assert_array_equal(centred[:, 0].T, np.array(want) - 128)


def test_a_spec_is_written_as_it_is_read(tmp_path):
    spec = Preprocess(
        resize="letterbox", size=(4, 6), pad=114, channels="YUV444_128", scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(2.0,)
    )
    (tmp_path / "p.toml").write_text(spec.to_toml())
    assert Preprocess.load(tmp_path / "p.toml") == spec
    (tmp_path / "q.toml").write_text(Preprocess().to_toml())
    assert Preprocess.load(tmp_path / "q.toml") == Preprocess()


def test_letterbox_keeps_the_ratio_and_pads(tmp_path):
    picture(tmp_path / "a.png", 8, 6)  # into 4 x 6: ratio 0.5 gives 4 x 3
    spec = Preprocess(resize="letterbox", pad=114, anchor="top-left", interpolation="area")
    x = next(iter(open_data(tmp_path, IMAGES, spec)))[0][0]
    assert (x[:, :, 3:] == 114).all()
    np.testing.assert_allclose(x[1, 0, :3], [0, 2, 4], atol=1)
    assert (x[2, :, :3] == 200).all()
    centred = next(iter(open_data(tmp_path, IMAGES, Preprocess(resize="letterbox", pad=7))))[0][0]
    assert (centred[:, :, 0] == 7).all()
    assert (centred[:, :, 4:] == 7).all()
    assert (centred[2, :, 1:4] == 200).all()


def test_crop_covers_and_cuts(tmp_path):
    picture(tmp_path / "a.png", 12, 6)  # into 4 x 6: nothing to shrink, rows 4..8 stay
    x = next(iter(open_data(tmp_path, IMAGES, Preprocess(resize="crop"))))[0][0]
    np.testing.assert_array_equal(x[0, :, 0], [4, 5, 6, 7])


def test_images_come_in_order_in_full_batches_with_the_spec_of_the_folder(tmp_path):
    for index, name in enumerate(["b.png", "a.PNG", "sub/c.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (6, 4), (index, 0, 0)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "preprocess.toml").write_text('channels = "RGB"\n')
    data = open_data(str(tmp_path), [Value("x", (2, 3, 4, 6), "float32")])
    assert len(data) == 2
    first, last = list(data)
    assert [first[0][0, 0, 0, 0], first[0][1, 0, 0, 0]] == [1, 0]
    assert [last[0][0, 0, 0, 0], last[0][1, 0, 0, 0]] == [2, 2]
    assert data.preprocess == Preprocess(size=(4, 6))  # the device must know the size, too
    assert Preprocess.from_mapping(data.preprocess.to_json()) == data.preprocess


def test_images_that_do_not_work(tmp_path):
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    with pytest.raises(PorterError, match="preprocessing spec") as error:
        open_data(tmp_path, IMAGES)
    assert code(error) == "PT405"
    with pytest.raises(PorterError, match="one image input"):
        open_data(tmp_path, TWO, Preprocess())
    with pytest.raises(PorterError, match="1x3x5x5") as error:
        open_data(tmp_path, IMAGES, Preprocess(size=(5, 5)))
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(PorterError, match="not an image") as error:
        list(open_data(tmp_path, IMAGES, Preprocess()))
    assert code(error) == "PT404"
    assert error.value.where.endswith("b.png")
    with pytest.raises(PorterError, match="no folder of images"):
        open_data([samples(1)[0]], IMAGES, Preprocess())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense = 1", "no key 'nonsense'"),
        ('resize = "fit"', "stretch, letterbox, crop"),
        ("size = [4]", "height, width"),
        ("size = [4, 0]", "height, width"),
        ("mean = [1, 2]", "one number, or one for each of three"),
        ("std = [1, 0, 1]", "no std is 0"),
        ("std = nan", "one number"),
        ('scale = "1/255"', "finite number"),
        ("pad = true", "finite number"),
        ('channels = "GRAY"\nmean = [1, 2, 3]', "GRAY"),
        ("= 3", "cannot be read"),
    ],
)
def test_preprocessing_specs_with_mistakes(tmp_path, text, message):
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(PorterError, match=message) as error:
        Preprocess.load(tmp_path / "p.toml")
    assert code(error) == "PT405"
    assert error.value.where.endswith("p.toml")


def test_suspicious_samples_are_warned_about_once():
    constant = open_data([np.zeros((1, 3, 4, 6), np.float32)] * 2, IMAGES)
    assert [f.code for f in constant.findings] == ["PT406"]
    list(constant)
    assert len(constant.findings) == 1
    raw = open_data([np.random.default_rng(0).integers(0, 255, (1, 3, 4, 6)).astype(np.uint8)], IMAGES)
    assert "uint8" in raw.findings[0].message
    assert next(iter(raw))[0].dtype == np.float32
    mixed = open_data([samples(1)[0], samples(1)[0] * 255], IMAGES)
    assert mixed.findings == []
    list(mixed)
    assert "0..255" in mixed.findings[0].message
    assert all(f.severity == "warning" for f in mixed.findings)


def test_an_npy_larger_than_memory_is_streamed(tmp_path):
    shape = (200, 3, 64, 64)
    stack = np.lib.format.open_memmap(tmp_path / "big.npy", mode="w+", dtype=np.float32, shape=shape)
    stack[:] = np.arange(200, dtype=np.float32).reshape(-1, 1, 1, 1) + np.linspace(0, 1, 64, dtype=np.float32)
    del stack
    data = open_data(tmp_path / "big.npy", [Value("x", (1, *shape[1:]), "float32")])
    tracemalloc.start()
    assert sum(float(item[0].min()) for item in data) == 199 * 100
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 3 * 64 * 64 * 4  # a few samples, not 200


def test_torch_loaders_are_read_without_labels_only():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.randn(4, 3, 4, 6, requires_grad=True))
    opened = open_data(torch.utils.data.DataLoader(data, batch_size=1), IMAGES)
    assert len(opened) == 4
    np.testing.assert_array_equal(next(iter(opened))[0], data.tensors[0][:1].detach().numpy())


def test_batches_of_loaders_become_batches_of_the_model():
    torch = pytest.importorskip("torch")
    stack = torch.randn(7, 3, 4, 6)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(stack), batch_size=3)
    for batch in (1, 2, 3, 5):
        opened = open_data(loader, [Value("x", (batch, 3, 4, 6), "float32")])
        items = [item[0] for item in opened]
        assert len(items) == len(opened) == -(-7 // batch)
        np.testing.assert_array_equal(np.concatenate(items)[:7], stack.numpy())
        np.testing.assert_array_equal(items[-1][-1], stack[6].numpy())  # filled with the last sample


def test_batches_of_several_inputs_are_taken_apart_together():
    values = [Value("x", (1, 3), "float32"), Value("ids", (1, 2), "int64")]
    x, ids = samples(5, (3,)), np.arange(10).reshape(5, 2)
    opened = open_data([{"ids": ids[:3], "x": x[:3]}, (x[3:], ids[3:])], values)
    items = list(opened)
    assert len(items) == len(opened) == 5
    for item, a, b in zip(items, x, ids, strict=True):
        np.testing.assert_array_equal(item[0][0], a)
        np.testing.assert_array_equal(item[1][0], b)
    with pytest.raises(PorterError) as error:
        open_data([(x[:2], ids[:3])], values)
    assert code(error) == "PT402"
    with pytest.raises(PorterError):  # two axes and a batch above 1: a wrong length is no other batch
        open_data([[x[:3]]], [Value("x", (2, 3), "float32")])


def test_float_pixels_are_warned_about_unless_a_spec_says_so(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 6)).astype(np.float32)
    (finding,) = open_data([pixels], IMAGES).findings
    assert finding.code == "PT406"
    assert "whole numbers" in finding.message
    assert open_data([pixels / 255], IMAGES).findings == []
    Image.fromarray(pixels[0].transpose(1, 2, 0).astype(np.uint8)).save(tmp_path / "a.png")
    assert open_data(tmp_path, IMAGES, Preprocess()).findings == []


def test_random_inputs():
    values = [Value("x", (2, 50), "float32"), Value("i", (2, 50), "int64"), Value("b", (20,), "bool"),
              Value("h", (50,), "float16")]  # fmt: skip
    items = random_inputs(values, 6, seed=3)
    again = random_inputs(values, 6, seed=3)
    for item, other in zip(items, again, strict=True):
        for a, b, value in zip(item, other, values, strict=True):
            np.testing.assert_array_equal(a, b)
            assert (a.shape, str(a.dtype)) == (value.shape, value.dtype)
    normal, unit, pixels, zeros = (item[0] for item in items[:4])
    assert normal.min() < -1
    assert 0 <= unit.min() < unit.max() <= 1
    assert 0 <= pixels.min() < 100 < pixels.max() <= 255
    assert not zeros.any()
    assert all(0 <= item[1].min() <= item[1].max() <= 7 for item in items)
    assert not np.array_equal(normal, items[4][0])
    assert not np.array_equal(normal, random_inputs(values, 1, seed=4)[0][0])
    with pytest.raises(PorterError, match="no fixed shape"):
        random_inputs([Value("x", None, "float32")], 1)
