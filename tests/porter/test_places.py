# SPDX-License-Identifier: Apache-2.0
"""Source files of an origin: found below the root, and nothing outside of it is opened or named."""

from __future__ import annotations

import os

import pytest
import reports

from porter.ops import Origin
from porter.places import Places


@pytest.mark.parametrize(
    "recorded",
    ["net/head.py", "./net/head.py", "/home/a/proj/net/head.py", "C:\\proj\\net\\head.py", "{root}/net/head.py"],
)
def test_a_file_below_the_root(tmp_path, recorded):
    paths = reports.source(tmp_path)
    origin = Origin(recorded.format(root=tmp_path), 7)
    assert paths.find(origin) == "net/head.py" and paths.text(origin) == "y = torch.nonzero(x)"


@pytest.mark.parametrize(
    "recorded",
    [None, "", "head.py", "/elsewhere/head.py", "/etc/passwd", "../secret.py", "x/../../secret.py", "net", "a\0b/c.py",
     "/dev/zero", "net/link.py", "/" + "a/" * 5000 + "b.py", "a/" * 2000 + "b.py"],
)  # fmt: skip
def test_nothing_else(tmp_path, recorded):
    root = tmp_path / "root"
    paths = reports.source(root)
    (tmp_path / "secret.py").write_text("secret")
    (root / "net" / "link.py").symlink_to(tmp_path / "secret.py")
    origin = Origin(recorded, 1)
    assert paths.find(origin) is None and paths.text(origin) == ""


@pytest.mark.parametrize("line", [None, 0, -3, 10**9])
def test_a_line_that_is_not_there(tmp_path, line):
    assert reports.source(tmp_path).text(Origin(reports.HEAD, line)) == ""


def test_a_pipe_does_not_block(tmp_path):
    paths = reports.source(tmp_path)
    os.mkfifo(tmp_path / "net" / "pipe.py")
    assert paths.text(Origin("net/pipe.py", 1)) == ""


def test_the_current_folder_is_the_root(tmp_path, monkeypatch):
    reports.source(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert Places().relative(tmp_path / "net" / "head.py") == "net/head.py"
