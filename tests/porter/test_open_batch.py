# SPDX-License-Identifier: Apache-2.0
"""Models whose batch stays open: arithmetic on shapes becomes a 0 or -1 of a Reshape, the rest is told."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import save
from onnx import numpy_helper

import porter as api
from porter.errors import PorterError
from porter.target import Target

TARGET = """
[target]
name = "toy"
closed = true
[runtime]
framework = "toy"
static_shapes = false
max_rank = 4
dtypes = ["float32", "int64", "bool"]
"""
KINDS = "reshape permute mul add sigmoid expand cat slice matmul softmax take shape split lstm linear tanh"


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "toy.toml"
    path.write_text(TARGET + "".join(f"[ops.{kind}]\n" for kind in KINDS.split()))
    return Target.load(path)


def model(body, opset=17, weights=()):
    made = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {body}')
    for name, data in dict(weights).items():
        made.graph.initializer.append(numpy_helper.from_array(data, name))
    onnx.checker.check_model(made)
    return made


def proved(proto, target, **options):
    """The rewritten model, which runs at five batches like the first one; its operators."""
    made = api.rewrite(proto, target, open_batch=True, **options)
    assert made.ok and made.evidence.ok and made.evidence.inputs == 9, made.report.findings
    written = made.graph.to_proto()
    onnx.checker.check_model(written, full_check=True)
    sessions = [onnxruntime.InferenceSession(p.SerializeToString()) for p in (proto, written)]
    for batch in (1, 2, 3, 7):
        rng = np.random.default_rng(batch)
        feeds = {
            v.name: rng.standard_normal([batch if isinstance(n, str) else n for n in v.shape], np.float32)
            for v in sessions[0].get_inputs()
        }
        for want, got in zip(*(session.run(None, feeds) for session in sessions), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    return made, written


def operators(proto):
    return [node.op_type for node in proto.graph.node if node.op_type != "Constant"]


def shapes(proto):
    known = {t.name: numpy_helper.to_array(t).tolist() for t in proto.graph.initializer}
    return [known[node.input[1]] for node in proto.graph.node if node.op_type in ("Reshape", "Expand")]


def dims(values):
    return [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values]


def test_shape_arithmetic_becomes_reshapes(toy):
    """A YOLO head as torch.onnx.export writes it for a dynamic batch: Shape, Gather, Unsqueeze, Concat, Reshape."""
    made, written = proved(
        model("""g (float[batch, 6, 4, 4] x) => (float[b, p, c] y)
    <int64 zero = {0}, int64[1] axes = {0}, int64[1] three = {3}, int64[1] two = {2}, int64[1] open = {-1}> {
    s = Shape (x) n = Gather <axis = 0> (s, zero) n1 = Unsqueeze (n, axes)
    split = Concat <axis = 0> (n1, three, two, open) v = Reshape (x, split)
    t = Transpose <perm = [0, 1, 3, 2]> (v)
    flat = Concat <axis = 0> (n1, open, two) y = Reshape (t, flat) }"""),
        toy,
    )
    assert operators(written) == ["Reshape", "Transpose", "Reshape"]
    assert shapes(written) == [[0, 3, 2, 16], [0, 48, 2]]
    assert dims(written.graph.input) == [["batch", 6, 4, 4]] and dims(written.graph.output) == [["batch", 48, 2]]
    assert [(e.kind, e.rules, e.claim) for e in made.ledger.entries] == [("reshape", ("fold_constants",), "exact")] * 2
    assert "of batches 1, 4, 5" in made.ledger.proof


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.booleans(), st.data())
def test_any_division_of_the_axes(rest, merged, data):
    """The batch by itself, or merged with the next axis and divided again."""
    total = int(np.prod(rest)) * 2
    order = data.draw(st.permutations([*rest, 2]))
    front = "k = Mul (n1, first) one = Concat <axis = 0> (k, open)" if merged else "one = Concat <axis = 0> (n1, all)"
    body = f"""g (float[batch, {", ".join(map(str, [*rest, 2]))}] x) => (float[b, {total}] y)
    <int64 zero = {{0}}, int64[1] axes = {{0}}, int64[1] first = {{{rest[0]}}}, int64[1] open = {{-1}},
     int64[1] all = {{{total}}}, int64[{len(order)}] back = {{{", ".join(map(str, order))}}}> {{
    s = Shape (x) n = Gather <axis = 0> (s, zero) n1 = Unsqueeze (n, axes) {front}
    a = Reshape (x, one) r = Sigmoid (a) two = Concat <axis = 0> (n1, back) c = Reshape (r, two)
    d = Mul (c, c) last = Concat <axis = 0> (n1, all) y = Reshape (d, last) }}"""
    target = Target.load("onnxruntime")
    _, written = proved(model(body), target)
    assert operators(written) == ["Reshape", "Sigmoid", "Reshape", "Mul", "Reshape"]
    for shape in shapes(written):
        assert sum(n <= 0 for n in shape) == 1


def test_a_token_for_each_image(toy):
    """Expand to the batch is kept, by a shape of one Shape; an Expand along the operand's own batch needs none."""
    _, written = proved(model("""g (float[batch, 2, 3] x) => (float[b, 3, 3] y, float[b, 2, 3] z)
    <int64 zero = {0}, int64[1] axes = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}> {
    s = Shape (x) n = Gather <axis = 0> (s, zero) n1 = Unsqueeze (n, axes)
    all = Concat <axis = 0> (n1, one, three) t = Expand (token, all) y = Concat <axis = 1> (t, x)
    m = Slice (x, axes, one, one) full = Concat <axis = 0> (n1, two, three) w = Expand (m, full) z = Mul (w, x) }""",
    weights={"token": np.arange(3, dtype=np.float32).reshape(1, 1, 3)}), toy)  # fmt: skip
    assert operators(written).count("Shape") == 1 and operators(written).count("Expand") == 2
    known = {t.name: numpy_helper.to_array(t).tolist() for t in written.graph.initializer}
    second = [node for node in written.graph.node if node.op_type == "Expand"][1]
    assert known[second.input[1]] == [1, 2, 3]


def test_a_constant_that_was_repeated_for_each_image(toy):
    """Folding at one batch makes rows of it; they become one row, or are repeated when the model runs."""
    body = """g (float[batch, 3] x) => (float[b, 3] y, float[c, 6] z)
    <int64 zero = {0}, int64[1] axes = {0}, int64[1] three = {3}> {
    s = Shape (x) n = Gather <axis = 0> (s, zero) n1 = Unsqueeze (n, axes) all = Concat <axis = 0> (n1, three)
    f = ConstantOfShape <value = float[1] {2.0}> (all) e = Erf (f) y = Mul (x, e) z = Concat <axis = 1> (x, e) }"""
    _, written = proved(model(body), toy)
    assert "Erf" not in operators(written) and "ConstantOfShape" not in operators(written)
    rows = [numpy_helper.to_array(t) for t in written.graph.initializer if t.data_type == 1]
    assert all(len(row) == 1 for row in rows)


def test_rewrites_are_made_on_the_way(toy):
    """The formula of SiLU, and five axes that the device has not."""
    _, written = proved(
        model("""g (float[batch, 4, 6] x) => (float[b, 6, 4] y)
    <int64 zero = {0}, int64[1] axes = {0}, int64[1] two = {2}, int64[1] three = {3}, int64[1] open = {-1},
     int64[1] six = {6}> {
    s = Shape (x) n = Gather <axis = 0> (s, zero) n1 = Unsqueeze (n, axes)
    all = Concat <axis = 0> (n1, two, two, two, three) v = Reshape (x, all)
    t = Transpose <perm = [0, 4, 2, 3, 1]> (v) h = HardSwish (t)
    flat = Concat <axis = 0> (n1, six, open) y = Reshape (h, flat) }"""),
        "onnxruntime",
    )
    assert "Shape" not in operators(written)


def test_a_batch_on_another_axis_of_the_output():
    proto = model("g (float[batch, 3] x) => (float[3, b] y) { y = Transpose <perm = [1, 0]> (x) }")
    _, written = proved(proto, "onnxruntime")
    assert dims(written.graph.output) == [[3, "batch"]]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("""g (float[batch, 4] x) => (float[c, b, 4] y) <int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4}> {
          s = Shape (x) n = Gather <axis = 0> (s, zero) k = Mul (n, two)
          all = Concat <axis = 0> (k, n, four) e = Expand (x, all) y = Sigmoid (e) }""",
         "repeats a value a number of times"),
        ("""g (float[batch, 4] x) => (float[b, c] y) <int64[1] zero = {0}> {
          s = Shape (x) n = Gather <axis = 0> (s, zero) t = Range (z0, n0, z1) r = Cast <to = 1> (t)
          q = Erf (r) w = Unsqueeze (q, one) y = Mul (x, w) }""",
         "reads a constant that depends on it"),
    ],
)  # fmt: skip
def test_what_depends_on_the_batch_otherwise_is_told(body, why, toy):
    if "Range" in body:
        body = body.replace("t = Range (z0, n0, z1)", "n0 = Squeeze (n, zero) t = Range (z0, n0, z1)")
        body = body.replace("<int64[1] zero = {0}>", "<int64[1] zero = {0}, int64[1] one = {1}, int64 z0 = {0}, "
                            "int64 z1 = {1}>")  # fmt: skip
    proto = model(body)
    with pytest.raises(PorterError, match=why) as caught:
        api.rewrite(proto, toy, open_batch=True)
    assert caught.value.code == "PT354" and "--batch N" in caught.value.fix


def test_what_is_refused_at_once(tmp_path):
    plain = model("g (float[batch, 4] x) => (float[b, 4] y) { y = Sigmoid (x) }")
    with pytest.raises(PorterError, match="mlu270 compiles for fixed shapes") as caught:
        api.rewrite(plain, "mlu270", open_batch=True)
    assert caught.value.code == "PT354"
    for more in ({"batch": 2}, {"inputs": {"x": (2, 4)}}, {"data": [np.zeros((1, 4), np.float32)]}):
        with pytest.raises(PorterError, match="fixes the batch") as caught:
            api.rewrite(plain, "onnxruntime", open_batch=True, **more)
        assert caught.value.code == "PT519"
    fixed = model("g (float[2, 4] x) => (float[2, 4] y) { y = Sigmoid (x) }")
    with pytest.raises(PorterError):
        api.rewrite(fixed, "onnxruntime", open_batch=True)
    other = model("g (float[batch, n] x) => (float[b, m] y) { y = Sigmoid (x) }")
    with pytest.raises(PorterError, match="'n' is not fixed") as caught:
        api.rewrite(other, "onnxruntime", open_batch=True)
    assert caught.value.code == "PT507"


def test_the_command(porter, tmp_path):
    path = save(model("g (float[batch, 4] x) => (float[b, 4] y) { y = HardSwish (x) }"), tmp_path / "net.onnx")
    code, _, err = porter("rewrite", "-t", "onnxruntime", path, "--open-batch", "-o", tmp_path / "out.onnx")
    assert code == 0, err
    written = onnx.load(tmp_path / "out.onnx")
    assert dims(written.graph.input) == [["batch", 4]]
    code, _, err = porter("rewrite", "-t", "mlu270", path, "--open-batch", "-o", tmp_path / "no.onnx")
    assert code == 2 and "PT354" in err and not (tmp_path / "no.onnx").exists()
    code, _, err = porter("rewrite", "-t", "onnxruntime", path, "--open-batch", "--partition", "-o", tmp_path / "no")
    assert code == 2 and "PT519" in err


def test_weights_in_a_data_file_stay_there(tmp_path):
    proto = model("g (float[batch, 64] x) => (float[b, 64] y) { h = MatMul (x, w) y = Sigmoid (h) }",
                  weights={"w": np.random.default_rng(0).standard_normal((64, 64), np.float32)})  # fmt: skip
    path = tmp_path / "net.onnx"
    whole = proto.SerializeToString()
    onnx.save(proto, path, save_as_external_data=True, location="net.data", size_threshold=0)
    made = api.rewrite(path, "onnxruntime", open_batch=True)
    assert made.evidence.ok
    out = api.save(made, tmp_path / "out.onnx")
    session = onnxruntime.InferenceSession(str(out))
    x = np.ones((3, 64), np.float32)
    want = onnxruntime.InferenceSession(whole).run(None, {"x": x})[0]
    assert np.array_equal(session.run(None, {"x": x})[0], want)
