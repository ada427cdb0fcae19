# SPDX-License-Identifier: Apache-2.0
"""The package of docs/extending.md: built, installed into a folder of its own, and used by the command."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from models import model, save

PLUGIN = Path(__file__).parent / "plugin"
PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture(scope="module")
def acme(tmp_path_factory):
    """Runs ``porter`` where the package is installed; gives the finished process."""
    folder = tmp_path_factory.mktemp("acme")
    shutil.copytree(PLUGIN, folder / "source")  # building leaves files behind
    site = folder / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
               "--disable-pip-version-check", "--target", str(site), str(folder / "source")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def run(*arguments):
        paths = [str(site), str(PAGE.parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "COLUMNS": "200"}
        command = [sys.executable, "-m", "porter.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)

    return run


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    body = "net (float[1, 64] x) => (float[1, 64] y) { e = Erf (x) \n y = Mul (e, x) }"
    return save(model(body), tmp_path_factory.mktemp("net") / "net.onnx")


def test_the_page_shows_the_files():
    page = PAGE.read_text(encoding="utf-8")
    shown = re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", page, flags=re.DOTALL)
    assert [name for name, _ in shown] == ["pyproject.toml", "porter_acme/acme-npu.toml", "porter_acme/rules.py"]
    for name, text in shown:
        assert (PLUGIN / name).read_text(encoding="utf-8") == text, name


def test_target_and_rule_are_listed(acme):
    assert "acme-npu" in acme("targets").stdout
    page = acme("targets", "acme-npu").stdout
    assert "Acme NPU 1" in page and "rev. C" in page
    assert "Hendrycks" in acme("rewrites", "erf_to_tanh").stdout
    lint = acme("targets", "lint", "acme-npu")
    assert lint.returncode == 0, lint.stdout + lint.stderr


def test_the_rule_is_used_where_it_may_be(acme, net):
    refused = acme("check", "-t", "acme-npu", net, "--explain-plan")
    assert refused.returncode == 1 and "not permitted  erf_to_tanh" in refused.stdout
    told = acme("check", "-t", "acme-npu", net, "--allow", "approximate", "--explain-plan", "--portable")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "chosen  erf_to_tanh (approximate)" in told.stdout and "refused  erf_to_exp (approximate)" in told.stdout


def test_the_command_of_the_page_makes_the_model_legal(acme, net, tmp_path):
    done = acme("rewrite", "-t", "acme-npu", net, "--allow", "approximate", "--tolerance", "1e-3",
                "-o", tmp_path / "out")  # fmt: skip
    assert done.returncode == 0 and "equal within 0.001" in done.stdout, done.stdout + done.stderr
    again = acme("check", "-t", "acme-npu", tmp_path / "out" / "model.onnx")
    assert again.returncode == 0 and "legal as is" in again.stdout
