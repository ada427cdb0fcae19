# SPDX-License-Identifier: Apache-2.0
"""assert_portable, as a function and in somebody's own test run."""

from __future__ import annotations

import subprocess
import sys

import pytest
from models import conv_net, model, save

from porter.baseline import write_baseline
from porter.errors import PorterError
from porter.pytest_plugin import assert_portable

pytest_plugins = ["pytester"]
NONZERO = "net (float[2, 3] x) => (int64[2, n] y) { y = NonZero (x) }"


def test_portable_gives_the_report():
    report = assert_portable(conv_net(), "mlu270")
    assert report.portable and not report.ok


def test_not_portable_says_which_op_and_why():
    with pytest.raises(AssertionError, match=r"nonzero.*\n.*PT101") as caught:
        assert_portable(model(NONZERO), "mlu270")
    assert "1 finding" in str(caught.value)


def test_a_baseline_excuses_what_it_knows(tmp_path):
    import porter

    write_baseline(porter.check(model(NONZERO), "mlu270"), tmp_path / "known.json")
    assert not assert_portable(model(NONZERO), "mlu270", baseline=tmp_path / "known.json").portable


def test_a_wrong_target_is_an_error_not_a_failure():
    with pytest.raises(PorterError):
        assert_portable(conv_net(), "mlu27")


def test_the_fixture_in_a_run_of_its_own(pytester):
    save(conv_net(), pytester.path / "good.onnx")
    save(model(NONZERO), pytester.path / "bad.onnx")
    pytester.makepyfile(
        """
        def test_good(assert_portable):
            assert_portable("good.onnx", "mlu270")

        def test_bad(assert_portable):
            assert_portable("bad.onnx", "mlu270")
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E*bad.onnx on mlu270*", "E*nonzero*unsupported"])
    assert "pytest_plugin.py" not in result.stdout.str()


def test_loading_the_plugin_imports_nothing_heavy():
    code = (
        "import porter.pytest_plugin, sys; print([m for m in ('numpy', 'onnx', 'torch', 'rich') if m in sys.modules])"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "[]"
