# SPDX-License-Identifier: Apache-2.0
"""Partition from the model to the folder: segments, glue, proof, the head cut, numpy code, and what goes wrong."""

import json
import subprocess
import sys
from importlib import resources

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import model, save

import porter
from porter.partition import Pipeline, PipelineError
from porter.partition.cost import Costs
from porter.partition.cut import ops_between
from porter.partition.split import split
from porter.quantize.bounds import foreseen
from porter.target import Target

HEAD = """
[target]
name = "toy"
closed = true
[runtime]
framework = "toy"
dtypes = ["float32"]
{runtime}
[performance]
tops = {{ int8 = 4.0 }}
bandwidth_gbs = 10.0
"""


@pytest.fixture
def target(tmp_path):
    """A target that runs the given kinds."""

    def make(kinds="conv2d relu add mul sub sigmoid reshape permute slice cat", runtime="", host=""):
        ops = "".join(f"[ops.{kind}]\n" for kind in kinds.split())
        ops += "".join(f'[ops.{kind}]\ndevice = "host"\n' for kind in host.split())
        path = tmp_path / f"toy{len(list(tmp_path.glob('toy*')))}.toml"
        path.write_text(HEAD.format(runtime=runtime) + ops)
        return path

    return make


def detector():
    """A convolution, boxes and scores from it, NMS, and the boxes that it keeps."""
    rng = np.random.default_rng(0)
    return model(
        """det (float[1, 3, 32, 32] images) => (float[k, 4] kept, int64[n, 3] picked) {
             f = Conv <pads = [1, 1, 1, 1], kernel_shape = [3, 3]> (images, w1)
             g = Relu (f)
             raw = Conv <kernel_shape = [1, 1]> (g, w2)
             flat = Reshape (raw, shape)
             rows = Transpose <perm = [0, 2, 1]> (flat)
             corner = Slice (rows, s0, e2, axis)
             extent = Slice (rows, e2, e4, axis)
             one = Mul (corner, big)
             size = Sigmoid (extent)
             two = Add (one, size)
             boxes = Concat <axis = 2> (one, two)
             logit = Slice (rows, e4, e5, axis)
             score = Sigmoid (logit)
             scores = Transpose <perm = [0, 2, 1]> (score)
             picked = NonMaxSuppression (boxes, scores, most, iou, floor)
             which = Gather <axis = 1> (picked, last)
             all = Reshape (boxes, table)
             kept = Gather <axis = 0> (all, which)
        }""",
        weights={
            "w1": rng.standard_normal((32, 3, 3, 3), np.float32),
            "w2": 0.03 * rng.standard_normal((5, 32, 1, 1), np.float32),
            "shape": np.array([1, 5, 1024]), "table": np.array([1024, 4]), "axis": np.array([2]),
            "s0": np.array([0]), "e2": np.array([2]), "e4": np.array([4]), "e5": np.array([5]),
            "big": np.float32(0.5).reshape(1, 1, 1), "most": np.array([50]), "iou": np.float32([0.5]),
            "floor": np.float32([0.4]), "last": np.array(2),
        },
    )  # fmt: skip


def sandwich():
    """Legal, illegal (erf), legal: three segments."""
    rng = np.random.default_rng(1)
    return model(
        """net (float[1, 3, 64, 64] x) => (float[1, 8, 64, 64] y) {
             a = Conv <pads = [4, 4, 4, 4], kernel_shape = [9, 9]> (x, w1)
             b = Erf (a)
             y = Conv <pads = [3, 3, 3, 3], kernel_shape = [7, 7]> (b, w2)
        }""",
        weights={
            "w1": rng.standard_normal((64, 3, 9, 9), np.float32),
            "w2": rng.standard_normal((8, 64, 7, 7), np.float32),
        },
    )


def feeds(made, seed=5):
    rng = np.random.default_rng(seed)
    return {v.name: rng.standard_normal(v.shape).astype(np.float32) for v in made.rewritten.graph.inputs}


def test_a_detector_is_divided_before_its_decoding(target, tmp_path):
    made = porter.partition(detector(), target())
    assert made.ok and [s.device for s in made.split.segments] == ["accelerator", "host"]
    assert made.cut.ends == ("raw",) and "nms" in made.cut.why[0]
    device, host = made.split.segments
    assert [op.kind for op in device.ops] == ["conv2d", "relu", "conv2d"] and host.numpy is not None
    assert [(c.value, c.segment, c.out, c.bytes) for c in made.split.crossings] == [("raw", 0, True, 5 * 1024 * 4)]
    assert made.evidence.ok and made.numpy_evidence.ok and all(e.count for e in made.evidence.outputs)
    assert porter.check(device.graph, target()).ok


def test_without_the_cut_legal_decoding_stays_on_the_device(target):
    made = porter.partition(detector(), target(), cut="none")
    assert made.ok and made.cut is None
    assert "sigmoid" in {op.kind for op in made.split.segments[0].ops}
    named = porter.partition(detector(), target(), cut=["g"])
    assert named.ok and named.split.segments[0].graph.outputs[0].name == "g"


def test_the_folder_runs_by_itself(target, tmp_path):
    """In a process of its own, without porter on the path, by onnxruntime and by numpy; as the model does."""
    made = porter.partition(detector(), target())
    folder = made.save(tmp_path / "out")
    manifest = json.loads((folder / "pipeline.json").read_text())
    schema = json.loads(resources.files("porter.schema").joinpath("pipeline.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(manifest)
    assert manifest["bytes"] == 20480 and "equal within" in manifest["proof"]
    given = feeds(made)
    np.savez(tmp_path / "in.npz", **given)
    session = onnxruntime.InferenceSession(detector().SerializeToString(), providers=["CPUExecutionProvider"])
    kept, picked = session.run(None, given)
    assert len(picked) > 3
    for host in ("onnxruntime", "numpy"):
        command = [sys.executable, "-P", "-S", "-c", "import sys; sys.path[:0] = sys.argv.pop(1).split('|'); "
                   "import runpy; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')",
                   "|".join(p for p in sys.path if p.endswith("site-packages")), str(folder / "run_pipeline.py"),
                   str(tmp_path / "in.npz"), "-o", str(tmp_path / "o.npz"), "--host", host]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / "o.npz") as got:
            assert np.array_equal(got["picked"], picked)
            np.testing.assert_allclose(got["kept"], kept, rtol=1e-5)


def test_the_accelerator_is_a_function_of_the_users(target, tmp_path):
    made = porter.partition(sandwich(), target())
    folder = made.save(tmp_path / "out")
    assert [s.device for s in made.split.segments] == ["accelerator", "host", "accelerator"]
    asked = []

    def device(segment, given):
        asked.append((segment["name"], [v["name"] for v in segment["inputs"]], list(given)))
        session = onnxruntime.InferenceSession(folder / segment["files"]["onnx"], providers=["CPUExecutionProvider"])
        return dict(zip([v["name"] for v in segment["outputs"]], session.run(None, given), strict=True))

    given = feeds(made)
    got = Pipeline.load(folder, device).run(given)
    assert asked == [("segment_0_accelerator", ["x"], ["x"]), ("segment_2_accelerator", ["b"], ["b"])]
    want = made.rewritten.graph.run(given)[0]
    np.testing.assert_allclose(got["y"], want, rtol=1e-4, atol=1e-3)
    assert sum(c.bytes for c in made.split.crossings) == 2 * 64 * 64 * 64 * 4


def test_an_island_that_does_not_pay_stays_on_the_host_and_says_why(target):
    small = model(
        """net (float[1, 3, 64, 64] x) => (float[1, 8, 64, 64] y) {
             a = Conv <kernel_shape = [1, 1]> (x, w)
             b = Erf (a) \n c = Relu (b) \n y = Erf (c)
        }""",
        weights={"w": np.ones((8, 3, 1, 1), np.float32)},
    )
    made = porter.partition(small, target(), cut="none")
    assert [(s.device, [op.kind for op in s.ops]) for s in made.split.segments] == [
        ("accelerator", ["conv2d"]), ("host", ["erf", "relu", "erf"]),
    ]  # fmt: skip
    (note,) = (f for f in made.findings if f.code == "PT754")
    assert "relu" in note.message and "262144 bytes" in note.message and note.severity == "note"


def test_rates_decide(target):
    """With a link that costs nothing and a slow host, the same island goes to the device."""
    from porter.legalize import legalize
    from porter.loading import load
    from porter.partition.segments import Link

    chosen = Target.load(target())
    work, _, _, report = legalize(load(sandwich()), chosen)
    costs = Costs.of_target(chosen)
    dear = Costs(costs.prices, Link(1.0, 1e9))
    assert [s.device for s in split(work, chosen, report).segments] == ["accelerator", "host", "accelerator"]
    assert len(split(work, chosen, report, costs=dear).segments) == 2


def test_what_needs_no_partition_is_one_segment(target):
    body = "g (float[1, 4] x) => (float[1, 4] y) { y = Relu (x) }"
    made = porter.partition(model(body), target())
    assert made.ok and [s.device for s in made.split.segments] == ["accelerator"] and not made.split.crossings


def test_nothing_for_the_accelerator_is_said(target):
    body = "g (float[1, 4] x) => (float[1, 4] y) { y = Erf (x) }"
    with pytest.raises(porter.PorterError, match="PT752"):
        porter.partition(model(body), target())
    assert porter.check(model(body), target()).outlook.answer == "no"


@pytest.mark.parametrize(("name", "said"), [("nothing", "PT753"), ("kept", "PT753"), ("gg", "Did you mean g")])
def test_a_cut_that_cannot_be_made(target, name, said):
    with pytest.raises(porter.PorterError, match=said):
        porter.partition(detector(), target(), cut=[name])


def test_an_output_that_was_always_empty_is_a_warning(target):
    made = detector()
    for tensor in made.graph.initializer:
        if tensor.name == "floor":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32([2.0]), "floor"))
    found = porter.partition(made, target())
    assert found.ok and [f.code for f in found.findings] == ["PT756"] and "kept, picked" in found.findings[0].message


def test_a_torch_model_is_divided_too(target, tmp_path):
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Conv2d(3, 8, 3, padding=1)
            self.b = torch.nn.Conv2d(8, 4, 1)

        def forward(self, x):
            y = torch.relu(self.a(x))
            return torch.erf(torch.sigmoid(self.b(y)))

    made = porter.partition(Net().eval(), target(), {"x": (1, 3, 16, 16)})
    assert made.ok and [s.device for s in made.split.segments] == ["accelerator", "host"]
    assert made.split.segments[0].ops[0].origin.module == "a"
    folder = made.save(tmp_path / "out")
    x = np.ones((1, 3, 16, 16), np.float32)
    (got,) = Pipeline.load(folder, host="numpy").run({"x": x}).values()
    np.testing.assert_allclose(got, made.rewritten.graph.run([x])[0], rtol=1e-5, atol=1e-6)


def test_an_op_without_onnx_form_is_a_program_of_torch(target, tmp_path):
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, x):
            return torch.special.bessel_j0(self.a(x))

    made = porter.partition(Net().eval(), target(), {"x": (1, 3, 16, 16)})
    assert made.ok and "PT755" in [f.code for f in made.findings]
    folder = made.save(tmp_path / "out")
    manifest = json.loads((folder / "pipeline.json").read_text())
    assert list(manifest["segments"][1]["files"]) == ["pt2"] and "bessel" in manifest["segments"][1]["no_numpy"]
    x = np.ones((1, 3, 16, 16), np.float32)
    (got,) = Pipeline.load(folder).run({"x": x}).values()
    np.testing.assert_allclose(got, made.rewritten.graph.run([x])[0], rtol=1e-5, atol=1e-6)


def test_a_pipeline_refuses_what_does_not_fit(target, tmp_path):
    made = porter.partition(sandwich(), target())
    folder = made.save(tmp_path / "out")
    given = feeds(made)
    pipeline = Pipeline.load(folder)
    for bad, said in (({}, "missing"), ({**given, "z": given["x"]}, "no input 'z'"), ({"x": given["x"][0]}, "shape")):
        with pytest.raises(PipelineError, match=said):
            pipeline.run(bad)
    with pytest.raises(PipelineError, match="float64"):
        pipeline.run({"x": given["x"].astype(np.float64)})
    with pytest.raises(PipelineError, match="did not give"):
        Pipeline.load(folder, lambda _segment, _feeds: {}).run(given)
    with pytest.raises(PipelineError, match="not a pipeline"):
        Pipeline.load(tmp_path)
    text = (folder / "pipeline.json").read_text()
    (folder / "pipeline.json").write_text(text.replace("segment_1_host.onnx", "../evil.onnx"))
    with pytest.raises(PipelineError, match="not a file of"):
        Pipeline.load(folder)
    (folder / "pipeline.json").write_text(text.replace('"schema_version": "1.0"', '"schema_version": "2.0"'))
    with pytest.raises(PipelineError, match="schema_version"):
        Pipeline.load(folder)


def test_check_says_what_partition_would_do(target):
    report = porter.check(detector(), target())
    made = porter.partition(detector(), target())
    outlook = report.outlook
    assert outlook.answer == "partition" and not report.portable
    assert (outlook.crossings, outlook.bytes) == (len(made.split.crossings), made.split.bytes)
    assert outlook.host == sum(len(s.ops) for s in made.split.segments if s.device == "host")
    (cut,) = (f for f in report.findings if f.code == "PT751")
    assert cut.severity == "note" and "raw" in cut.message
    assert porter.check(sandwich(), target("conv2d erf")).outlook.answer == "as is"


def test_a_file_that_knows_nothing_is_no_refusal():
    """XGen's list of operators is not public: that is no reason to say that it runs none of them."""
    net = model("g (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) { y = Relu (x) }", 11)
    outlook = porter.check(net, "xgen-mobile").outlook
    assert outlook.answer == "unknown"
    assert str(outlook) == "may or may not become legal: of no op is it known that xgen-mobile runs it"


def test_a_range_conflict_alone_proposes_the_cut():
    """Boxes in pixels and scores under one 8-bit scale: legal, and better decoded on the host."""
    rng = np.random.default_rng(0)
    net = model(
        """net (float[1, 3, 16, 16] x) => (float[1, 6, 16, 16] y) {
             a = Conv <kernel_shape = [1, 1]> (x, w)
             b = Conv <kernel_shape = [1, 1]> (x, v)
             p = Mul (a, stride)
             q = Sigmoid (b)
             y = Concat <axis = 1> (p, q)
        }""",
        weights={
            "w": rng.standard_normal((4, 3, 1, 1), np.float32), "v": rng.standard_normal((2, 3, 1, 1), np.float32),
            "stride": np.float32(2000.0).reshape(1, 1, 1, 1),
        },
    )  # fmt: skip
    report = porter.check(net, "x5")
    conflicts = [f for f in report.findings if f.code == "PT409"]
    proposed = [f for f in report.findings if f.code == "PT751"]
    assert len(proposed) == len(conflicts) == 1 and conflicts[0].message in proposed[0].message
    assert foreseen(porter.load(net), Target.load("x5"))


def test_ops_on_the_devices_own_host_are_legal_with_a_note(target):
    """A toolchain that puts ops on its CPU itself: nothing to split, and the crossings are told."""
    own = target("conv2d", runtime='fallback = "host"', host="erf")
    report = porter.check(sandwich(), own)
    assert report.ok and report.portable and report.summary == {"native": 2, "host": 1}
    assert {f.severity for f in report.findings} == {"note"}
    assert report.outlook.answer == "as is" and (report.outlook.crossings, report.outlook.host) == (2, 1)
    made = porter.rewrite(sandwich(), own)
    assert made.ok and made.report.outlook.crossings == 2
    strict = target("conv2d", runtime='fallback = "none"', host="erf")
    assert not porter.check(sandwich(), strict).ok
    assert [s.device for s in porter.partition(sandwich(), strict).split.segments][1] == "host"
    assert len(porter.partition(sandwich(), own).split.segments) == 1


def test_port_takes_what_the_devices_own_host_completes(target, tmp_path):
    own = target("conv2d", runtime='fallback = "host"', host="erf")
    own.write_text(own.read_text() + '[artifact]\nkind = "onnx"\n')
    made = porter.port(sandwich(), own, None, tmp_path / "bundle")
    assert made.ok and (tmp_path / "bundle" / "model.onnx").is_file()


def test_every_format_says_what_runs_on_the_host(porter, target, tmp_path):
    own = target("conv2d", runtime='fallback = "host"', host="erf")
    net = save(sandwich(), tmp_path / "net.onnx")
    for name in ("text", "markdown", "html"):
        code, out, _ = porter("check", "-t", own, net, "-f", name)
        assert code == 0 and "with 1 op on its own host, 2 crossings" in out.replace("Runs", "runs"), name


def test_the_command(porter, target, tmp_path):
    net, toy = save(detector(), tmp_path / "net.onnx"), target()
    code, out, _ = porter("rewrite", "-t", toy, net, "--partition", "-o", "out")
    assert code == 0 and "1 crossing between accelerator and host" in out and "head cut at raw" in out
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"pipeline.json", "run_pipeline.py", "ledger.json", "report.json", "evidence.json"} <= names
    assert {"segment_0_accelerator.onnx", "segment_1_host.onnx", "segment_1_host.py"} <= names
    assert porter("rewrite", "-t", toy, net, "--partition", "-o", "out")[0] == 2  # it exists
    code, out, _ = porter("rewrite", "-t", toy, net, "--cut", "g", "-f", "json", "--dry-run")
    made = json.loads(out)
    assert code == 0 and made["ok"] and made["cut"] == ["g"] and made["output"] is None
    for option, said in (("--samples=0", "no input to compare on"), ("--opset=13", "no opset of its own")):
        code, out, err = porter("rewrite", "-t", toy, net, "--partition", option, "-o", "never")
        assert code == 2 and "PT519" in err and said in err and not (tmp_path / "never").exists()
    code, out, err = porter("rewrite", "-t", toy, net, "--cut", "zzz", "-o", "never")
    assert code == 2 and "PT753" in err and not (tmp_path / "never").exists()
    code, out, _ = porter("check", "-t", toy, net)
    assert code == 1 and "legal after partition: 1 crossing" in out and "PT751" in out


def test_segments_that_are_not_equal_are_not_written(porter, target, tmp_path, monkeypatch):
    from porter.partition import split as module

    right = module._graph_runner
    monkeypatch.setattr(module, "_graph_runner", lambda *a: {k: v + 1 for k, v in right(*a).items()})
    net = save(detector(), tmp_path / "net.onnx")
    code, out, _ = porter("rewrite", "-t", target(), net, "--partition", "-o", "out")
    assert code == 1 and "PT757" in out and "nothing was written" in out and not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", ["{x} * 0", "1 // 0 + {x}"])
def test_numpy_code_that_is_not_equal_is_left_out(target, tmp_path, monkeypatch, wrong):
    from porter.emit import numpy_code

    monkeypatch.setitem(numpy_code._TABLE, "sigmoid", lambda w, op: wrong.format(x=w(op.inputs[0])))
    made = porter.partition(detector(), target())
    assert made.ok and "PT759" in [f.code for f in made.findings] and made.numpy_evidence is None
    folder = made.save(tmp_path / "out")
    assert not (folder / "segment_1_host.py").exists()
    with pytest.raises(PipelineError, match="no numpy form"):
        Pipeline.load(folder, host="numpy")


def test_a_selection_that_turns_on_a_rounding_is_proved_part_by_part(target, monkeypatch):
    """The accelerator rounds otherwise; the argmax of near ties is then another one."""
    from porter.partition import split as module

    right = module._graph_runner

    def rounding(graph, segment, given):
        made = right(graph, segment, given)
        noise = np.random.default_rng(1)
        return {k: v * (1 + noise.uniform(-1e-6, 1e-6, v.shape).astype("f")) if v.dtype.kind == "f" else v
                for k, v in made.items()}  # fmt: skip

    monkeypatch.setattr(module, "_graph_runner", rounding)
    net = model("g (float[1, 4096] x) => (int64[1, 1] y) { r = Relu (x) \n y = ArgMax <axis = 1> (r) }")
    near = np.float32(0.5) + 1e-7 * (np.arange(2048, dtype=np.float32) % 7)
    ties = [[np.concatenate([np.linspace(0, 0.4, 2048, dtype=np.float32), near])[None]]]
    made = porter.partition(net, target("relu"), data=ties, samples=0)
    assert made.ok and not made.evidence.ok and made.parts.ok
    assert "PT758" in [f.code for f in made.findings]
    assert made.manifest()["proof"].startswith("each segment by itself: equal")


@st.composite
def networks(draw):
    """A random graph of cheap ops on (1, 4, 6, 6), some of which the toy target lacks."""
    count = draw(st.integers(2, 12))
    lines, values = [], ["x"]
    for i in range(count):
        op = draw(st.sampled_from(["Relu", "Sigmoid", "Erf", "Tanh", "Add", "Mul", "Sub", "Max"]))
        read = [draw(st.sampled_from(values)) for _ in range(1 if op in ("Relu", "Sigmoid", "Erf", "Tanh") else 2)]
        lines.append(f"v{i} = {op} ({', '.join(read)})")
        values.append(f"v{i}")
    outputs = draw(st.lists(st.sampled_from(values[1:]), min_size=1, max_size=3, unique=True))
    ends = ", ".join(f"float[1, 4, 6, 6] {name}" for name in outputs)
    return "g (float[1, 4, 6, 6] x) => (" + ends + ") { " + " \n ".join(lines) + " }"


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks(), st.sampled_from([0.0, 1.0]))
def test_any_division_is_the_model(target, body, latency):
    """Bit for bit, whatever is split off, and whether islands come home or not."""
    from porter.legalize import check
    from porter.partition.segments import Link
    from porter.partition.split import prove

    toy = Target.load(target("relu sigmoid add mul"))
    graph = porter.load(model(body))
    report = check(graph, toy)
    costs = Costs.of_target(toy)
    try:
        made = split(graph, toy, report, costs=Costs(costs.prices, Link(latency, 1e12)))
    except porter.PorterError as nothing:
        live = {op.outputs[0].name for op in ops_between(graph, ["x"], [v.name for v in graph.outputs])}
        assert nothing.code == "PT752"
        assert not any(one.verdict == "native" and one.op.outputs[0].name in live for one in report.ops)
        return
    rng = np.random.default_rng(0)
    items = [[rng.standard_normal((1, 4, 6, 6)).astype(np.float32)] for _ in range(2)]
    evidence = prove(graph, made, items, 0.0)
    assert all(error.equal for error in evidence.outputs)
    for segment in made.segments:
        assert segment.device == "host" or check(segment.graph, toy).ok
    assert prove(graph, made, items, 1e-5, numpy=True).ok


def test_what_only_the_form_of_an_op_reads_comes_with_it(target):
    """CastLike needs a tensor of which only the dtype counts: its segment gets it, and what makes it is not lost."""
    made = porter.partition(
        model(
            """like (float[4] x, int32[2] other) => (float[4] y) {
                 twice = Add (other, other)
                 r = Relu (x)
                 c = CastLike (r, twice)
                 y = CastLike (c, r)
               }"""
        ),
        target("relu"),
    )
    assert made.ok and [segment.device for segment in made.split.segments] == ["accelerator", "host"]
    assert {value.name for value in made.split.segments[1].graph.inputs} == {"r", "other"}


def test_what_a_conversion_to_another_opset_makes_legal_is_legal_after_rewrite(target):
    """There is no LayerNormalization at opset 11: it is written as mean, sub, mul, ... there, which the target runs."""
    norm = model(
        "norm (float[2, 8] x) => (float[2, 8] y) { y = LayerNormalization <axis = -1> (x, w) }",
        weights={"w": np.ones(8, np.float32)},
    )
    runs = target("mean sub mul add div sqrt pow square reciprocal rsqrt", "opset = [11, 11]")
    report = porter.check(norm, runs)
    assert str(report.outlook) == "legal after rewrite" and report.portable and not report.ok
    made = porter.rewrite(norm, runs)
    assert made.ok and {op.kind for op in made.graph.ops()} >= {"mean", "sub"}
