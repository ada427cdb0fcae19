# SPDX-License-Identifier: Apache-2.0
"""The command line as a user meets it: what it prints, its exit codes, and what it leaves on the disk."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import conv_net, model, save

PORTER = [sys.executable, "-m", "porter.cli"]


@pytest.fixture
def net(tmp_path):
    return save(conv_net(), tmp_path / "net.onnx")


def files(folder):
    return sorted(p.name for p in Path(folder).iterdir())


def test_check_says_what_why_where_and_the_fix(porter, net):
    code, out, _ = porter("check", "--target", "mlu270", net)
    assert code == 1
    assert "hardswish" in out and "PT101" in out and "rewrite by hardswish" in out
    assert "`porter rewrite --target mlu270` makes it legal" in out


def test_check_of_a_legal_model_exits_with_0(porter, tmp_path):
    body = "g (float[1, 3, 4, 4] x) => (float[1, 3, 4, 4] y) { y = Relu (x) }"
    code, out, _ = porter("check", "-t", "mlu270", save(model(body), tmp_path / "relu.onnx"))
    assert code == 0 and "runs every op as it is" in out


def test_the_json_report_has_its_fields(porter, net):
    code, out, err = porter("check", "--target", "mlu270", "--format", "json", net)
    report = json.loads(out)
    assert code == 1 and err == ""
    fields = {"schema_version", "target", "model", "ok", "portable", "summary", "outlook", "ops", "findings"}
    assert set(report) == fields
    assert report["summary"] == {"native": 2, "rewrite": 1}
    assert set(report["ops"][0]) == {"kind", "name", "verdict", "reasons", "rewrites", "origin"}
    assert {"file", "line", "module"} <= set(report["ops"][0]["origin"])
    (finding,) = report["findings"]
    assert finding["code"] == "PT101" and finding["fix"] and finding["kind"] == "hardswish"


def test_rewrite_writes_a_legal_equal_model_and_its_ledger(porter, net, tmp_path):
    code, out, _ = porter("rewrite", "--target", "mlu270", net, "-o", "out")
    assert code == 0 and "equal within" in out and "wrote out" in out
    folder = tmp_path / "out"
    assert {"model.onnx", "ledger.json", "evidence.json", "report.json"} <= set(files(folder))
    ledger = json.loads((folder / "ledger.json").read_text())
    (entry,) = ledger["entries"]
    assert entry["kind"] == "hardswish" and entry["measured"]["relative"] < 1e-6 and "equal within" in ledger["proof"]
    assert porter("check", "--target", "mlu270", "out/model.onnx")[0] == 0


def test_the_ledger_travels_inside_the_onnx_file(porter, net, tmp_path):
    porter("rewrite", "--target", "mlu270", net, "-o", "net_mlu.onnx")
    made = onnx.load(tmp_path / "net_mlu.onnx")
    assert "porter.ledger" in {entry.key for entry in made.metadata_props}
    origins = [{e.key: e.value for e in node.metadata_props}.get("porter.origin") for node in made.graph.node]
    assert all(origins)


def test_a_dry_run_writes_nothing(porter, net, tmp_path):
    before = files(tmp_path)
    code, out, _ = porter("rewrite", "--target", "mlu270", net, "-o", "out", "--dry-run")
    assert code == 0 and "nothing was written" in out and files(tmp_path) == before


def test_without_a_proof_the_ledger_says_so(porter, net, tmp_path):
    code, out, _ = porter("rewrite", "--target", "mlu270", net, "-o", "out", "--no-verify")
    assert code == 0 and "not verified" in out
    ledger = json.loads((tmp_path / "out/ledger.json").read_text())
    assert ledger["proof"] == "not verified" and ledger["entries"][0]["measured"] is None


def test_what_is_left_is_named_and_what_could_be_done_is_written(porter, tmp_path):
    body = """g (float[1, 3, 4, 4] x) => (float[1, 3, 4, 4] y, int64[4, n] z) {
        y = HardSwish (x)
        z = NonZero (x)
    }"""
    path = save(model(body), tmp_path / "m.onnx")
    code, out, _ = porter("rewrite", "--target", "mlu270", path, "-o", "part.onnx")
    assert code == 1 and "nonzero" in out and (tmp_path / "part.onnx").exists()
    assert "HardSwish" not in {node.op_type for node in onnx.load(tmp_path / "part.onnx").graph.node}


def test_an_existing_output_is_kept_unless_told_otherwise(porter, net, tmp_path):
    (tmp_path / "o.onnx").write_text("precious")
    code, _, err = porter("rewrite", "--target", "mlu270", net, "-o", "o.onnx")
    assert code == 2 and "PT512" in err and (tmp_path / "o.onnx").read_text() == "precious"
    assert porter("rewrite", "--target", "mlu270", net, "-o", "o.onnx", "--overwrite")[0] == 0
    assert (tmp_path / "o.onnx").read_bytes() != b"precious"


def test_the_input_is_never_its_own_output(porter, net):
    before = net.read_bytes()
    code, _, err = porter("rewrite", "--target", "mlu270", net, "-o", net, "--overwrite")
    assert code == 2 and "PT512" in err and net.read_bytes() == before


def test_quantize_writes_encodings_weights_and_qdq(porter, net, tmp_path):
    porter("rewrite", "--target", "mlu270", net, "-o", "legal.onnx")
    np.save(tmp_path / "cal.npy", np.random.default_rng(0).standard_normal((8, 3, 8, 8), np.float32))
    code, out, _ = porter("quantize", "--target", "mlu270", "--calibration", "cal.npy", "legal.onnx", "-o", "q")
    assert code == 0 and "SQNR" in out
    assert any(name.endswith(".json") for name in files(tmp_path / "q"))
    assert any(name.endswith(".onnx") for name in files(tmp_path / "q"))


def test_quantize_refuses_what_is_not_legal(porter, net, tmp_path):
    np.save(tmp_path / "cal.npy", np.zeros((2, 3, 8, 8), np.float32))
    arguments = ("quantize", "--target", "mlu270", "--calibration", "cal.npy", net, "-o", "q")
    code, _, err = porter(*arguments)
    assert code == 2 and "PT320" in err and "hardswish" in err and not (tmp_path / "q").exists()
    assert porter(*arguments, "--force")[0] == 0


def test_port_without_data_gives_the_float_model(porter, net, tmp_path):
    code, out, _ = porter("port", "--target", "onnxruntime", net, "-o", "bundle")
    assert code == 0 and "equal within" in out and "model.onnx" in out
    manifest = json.loads((tmp_path / "bundle/manifest.json").read_text())
    assert {"model.onnx", "golden.npz"} <= set(manifest["files"])
    code, _, err = porter("port", "--target", "onnxruntime", net, "-o", "other", "--dtype", "int8")
    assert code == 2 and "PT519" in err and not (tmp_path / "other").exists()


# -- everything that can be wrong ----------------------------------------------------------------------


class _Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def _bad_inputs(folder, good):
    """name -> (arguments, code)"""
    (folder / "cut.onnx").write_bytes(good.read_bytes()[:-40])
    (folder / "text.onnx").write_text("this is no model\n" * 20)
    (folder / "bomb.pth").write_bytes(pickle.dumps({"model": _Bomb()}, protocol=2))
    (folder / "target.toml").write_text('[target]\nname = "t"\n[runtime]\nframework = "x"\ndtypes = ["float33"]\n')
    (folder / "syntax.toml").write_text("[target]\nname = \n")
    np.savez(folder / "weights.npz", **{"conv.weight": np.zeros((2, 2), np.float32)})
    dynamic = "g (float[batch, 3, 8, 8] x) => (float[batch, 3, 8, 8] y) { y = Relu (x) }"
    save(model(dynamic), folder / "dynamic.onnx")
    check = ("check", "--target", "mlu270")
    return {
        "missing file": ((*check, "nothere.onnx"), "PT501"),
        "truncated file": ((*check, "cut.onnx"), "PT502"),
        "not a model": ((*check, "text.onnx"), "PT50"),
        "a pickle that would run code": ((*check, "bomb.pth"), "PT504"),
        "a state dict alone": ((*check, "weights.npz"), "PT505"),
        "an input that is not there": ((*check, good, "--input", "imagse:1x3x8x8"), "PT506"),
        "a wrong shape": ((*check, good, "--input", "images:1x4x8x8"), "PT506"),
        "a dynamic shape": ((*check, "dynamic.onnx"), "PT507"),
        "an unknown target": (("check", "--target", "mlu207", good), "PT508"),
        "a mistake in a target": (("check", "--target", "target.toml", good), "PT509"),
        "a target that is no TOML": (("check", "--target", "syntax.toml", good), "PT509"),
        "an input that is no shape": ((*check, good, "--input", "images"), "PT519"),
        "nowhere to write": (("rewrite", "--target", "mlu270", good), "PT519"),
        "no such folder": (("rewrite", "--target", "mlu270", good, "-o", "no/such/out.onnx"), "PT510"),
        "a file where a folder is needed": (("rewrite", "--target", "mlu270", good, "-o", "text.onnx/out"), "PT510"),
        "an unknown claim": ((*check, good, "--allow", "retrian"), "PT519"),
        "an unknown rewrite": (("rewrite", "--target", "mlu270", good, "-o", "o", "--apply", "focus"), "PT392"),
        "no calibration data": (
            ("quantize", "--target", "mlu270", "--calibration", "none", good, "-o", "q", "--force"), "PT4"),
        "no model at all": (check, "PT503"),
        "an unknown code": (("explain", "PT999"), "PT517"),
    }  # fmt: skip


CASES = [
    "missing file", "truncated file", "not a model", "a pickle that would run code", "a state dict alone",
    "an input that is not there", "a wrong shape", "a dynamic shape", "an unknown target", "a mistake in a target",
    "a target that is no TOML", "an input that is no shape", "nowhere to write", "no such folder",
    "a file where a folder is needed", "an unknown claim", "an unknown rewrite", "no calibration data",
    "no model at all", "an unknown code",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_one_clear_error_and_leaves_nothing(porter, net, tmp_path, case):
    cases = _bad_inputs(tmp_path, net)
    assert list(cases) == CASES
    arguments, code = cases[case]
    before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    status, out, err = porter(*arguments)
    assert status == 2 and out == ""
    assert err.startswith(code), err
    assert len(err.strip().splitlines()) <= 5 and "porter explain" in err
    assert {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before
    assert not (tmp_path / "exploded").exists()


def test_errors_name_the_nearest_thing(porter, net):
    assert "mlu270" in porter("check", "--target", "mlu207", net)[2]
    assert "images" in porter("check", "--target", "mlu270", net, "--input", "imagse:1x3x8x8")[2]
    assert "net.onnx" in porter("check", "--target", "mlu270", "nett.onnx")[2]


def test_a_mistake_in_a_target_has_line_and_key(porter, net, tmp_path):
    _bad_inputs(tmp_path, net)
    err = porter("check", "--target", "target.toml", net)[2]
    assert "target.toml:5" in err and "dtypes" in err and "float32" in err


def test_a_full_disk_is_one_error_and_leaves_nothing(net, tmp_path):
    big = conv_net()
    big.graph.initializer[0].raw_data  # noqa: B018  (the model is small; the limit below is smaller)
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300)); from porter.cli import main; main()"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "rewrite", "--target", "mlu270", str(net), "-o", "full.onnx"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 2 and run.stderr.startswith("PT511"), run.stderr
    assert files(tmp_path) == ["net.onnx"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(net, tmp_path, number):
    """The data function interrupts the command after its first sample, half-way through the proof."""
    (tmp_path / "feed.py").write_text(
        "import os, numpy as np\ndef samples():\n    yield [np.zeros((1, 3, 8, 8), np.float32)]\n"
        f"    os.kill(os.getpid(), {int(number)})\n    yield [np.zeros((1, 3, 8, 8), np.float32)]\n"
    )
    run = subprocess.run(
        [*PORTER, "rewrite", "--target", "mlu270", str(net), "-o", "out", "--data", "feed:samples"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 2 and "PT516" in run.stderr, run.stderr
    assert set(files(tmp_path)) <= {"net.onnx", "feed.py", "__pycache__"}


def test_too_little_memory_is_one_error(net, tmp_path):
    (tmp_path / "feed.py").write_text(
        "import numpy as np\ndef samples():\n    yield [np.empty((1 << 50,), np.float32)]\n"
    )
    run = subprocess.run(
        [*PORTER, "rewrite", "--target", "mlu270", str(net), "-o", "out", "--data", "feed:samples"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 2 and run.stderr.startswith("PT800: there was not enough memory"), run.stderr
    assert "Traceback" not in run.stderr and not (tmp_path / "out").exists()


# -- start-up ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--target", "mlu270", "net.onnx"]])
def test_the_onnx_path_never_imports_torch(net, arguments):
    code = (
        "import sys; sys.argv = ['porter', *sys.argv[1:]]\nfrom porter.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('IMPORTED', sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'onnxruntime', 'onnx'}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=net.parent, capture_output=True, text=True, check=True
    )
    imported = run.stdout.rpartition("IMPORTED ")[2].strip()
    assert imported == ("[]" if arguments == ["--help"] else "['onnx']")


@pytest.mark.parametrize("arguments", [["net.onnx", "-o", "net.pt2"], ["net.onnx", "-o", "net.pt"]])
def test_a_missing_torch_is_said_in_one_line(net, arguments):
    code = (
        "import sys\nclass NoTorch:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n            raise ModuleNotFoundError('no torch', name='torch')\n"
        "sys.meta_path.insert(0, NoTorch())\nfrom porter.cli import main\nmain()"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "rewrite", "--target", "mlu270", *arguments],
        cwd=net.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 2 and run.stderr.startswith("PT521: this needs torch"), run.stderr
    assert files(net.parent) == ["net.onnx"]


def test_rewriting_and_quantizing_onnx_never_import_torch(net, tmp_path):
    np.save(tmp_path / "cal.npy", np.random.default_rng(0).standard_normal((4, 3, 8, 8), np.float32))
    code = (
        "import sys, porter\nmade = porter.rewrite('net.onnx', 'mlu270')\nmade.save('out')\n"
        "porter.quantize(made.graph, 'mlu270', 'cal.npy').save('q')\nassert made.ok\nprint('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "False", run.stderr


def test_lists_and_pages(porter):
    code, out, _ = porter("targets")
    assert code == 0 and "mlu270" in out
    code, out, _ = porter("targets", "mlu270")
    assert code == 0 and "slice_assign" in out and "cnml.h" in out
    assert "kernel_h <= in_h: the kernel is taller than the input" in out and "Expression" not in out
    code, out, _ = porter("rewrites")
    assert code == 0 and "silu_to_sigmoid_mul" in out
    code, out, _ = porter("rewrites", "silu_to_sigmoid_mul")
    assert code == 0 and "x * sigmoid(x)" in out
    code, out, _ = porter("explain", "pt101")
    assert code == 0 and out.startswith("# PT101")
    assert "PT504" in porter("explain")[1]
    assert porter("version")[0] == 0


def test_help_of_every_command(porter):
    for command in ("check", "rewrite", "quantize", "emit", "port", "resave", "targets", "rewrites", "explain"):
        code, out, _ = porter(command, "--help")
        assert code == 0 and "Usage" in out


def test_a_usage_mistake_exits_with_2(porter):
    assert porter("chekc")[0] == 2
    assert porter("check", "x.onnx")[0] == 2
