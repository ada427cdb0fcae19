# SPDX-License-Identifier: Apache-2.0
"""Outputs are whole or absent: after an exception, a signal, a full disk; and nothing foreign is replaced."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from porter import files
from porter.errors import PorterError
from porter.files import atomic_dir, atomic_file, check_output, input_file, sha256, share_file


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def code_of(caught: pytest.ExceptionInfo[PorterError]) -> str:
    return caught.value.code


# ------------------------------------------------------------------------------------------------ files
def test_file_appears_whole_and_with_the_umask(tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    with atomic_file(out) as temporary:
        assert temporary.name == "m.onnx" and temporary.parent.parent == tmp_path
        temporary.write_bytes(b"new")
        assert not out.exists()
    assert out.read_bytes() == b"new" and names(tmp_path) == ["m.onnx"]
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert out.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("failure", [ValueError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_file_failure_keeps_the_old_one(tmp_path: Path, failure: BaseException) -> None:
    out = tmp_path / "m.onnx"
    out.write_bytes(b"old")
    with pytest.raises(type(failure)), atomic_file(out, overwrite=True) as temporary:
        temporary.write_bytes(b"half")
        raise failure
    assert out.read_bytes() == b"old" and names(tmp_path) == ["m.onnx"]


def test_external_data_goes_along_and_comes_back_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "m.onnx"
    with atomic_file(out) as temporary:
        temporary.write_bytes(b"1")
        (temporary.parent / "m.onnx.data").write_bytes(b"data 1")
    assert names(tmp_path) == ["m.onnx", "m.onnx.data"]

    real = Path.rename

    def fail_on_the_last(src: Path, dst: Path) -> Path:
        if dst == out:
            raise OSError(errno.EIO, "broken", str(src))
        return real(src, dst)

    monkeypatch.setattr(Path, "rename", fail_on_the_last)
    with pytest.raises(PorterError) as caught, atomic_file(out, overwrite=True) as temporary:
        temporary.write_bytes(b"2")
        (temporary.parent / "m.onnx.data").write_bytes(b"data 2")
        (temporary.parent / "a.data").write_bytes(b"a")
    assert code_of(caught) == "PT510"
    assert names(tmp_path) == ["m.onnx", "m.onnx.data"]
    assert out.read_bytes() == b"1" and (tmp_path / "m.onnx.data").read_bytes() == b"data 1"


def test_external_data_does_not_replace_a_foreign_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx.data").write_bytes(b"foreign")
    with pytest.raises(PorterError) as caught, atomic_file(tmp_path / "m.onnx") as temporary:
        temporary.write_bytes(b"1")
        (temporary.parent / "m.onnx.data").write_bytes(b"mine")
    assert code_of(caught) == "PT512"
    assert names(tmp_path) == ["m.onnx.data"] and (tmp_path / "m.onnx.data").read_bytes() == b"foreign"


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "m.onnx"):
        pass
    assert names(tmp_path) == []


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with atomic_file(tmp_path / "link", overwrite=True) as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


# ---------------------------------------------------------------------------------------------- folders
def test_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    for content in ("one", "two"):
        with atomic_dir(out, overwrite=True) as fresh:
            (fresh / content).write_text(content)
            (fresh / "deep").mkdir()
    assert names(out) == [files.MARK, "deep", "two"] and names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("failure", [ValueError("x"), KeyboardInterrupt()])
def test_folder_failure_keeps_the_old_one(tmp_path: Path, failure: BaseException) -> None:
    out = tmp_path / "bundle"
    with atomic_dir(out) as fresh:
        (fresh / "a").write_text("old")
    with pytest.raises(type(failure)), atomic_dir(out, overwrite=True) as fresh:
        (fresh / "a").write_text("new")
        raise failure
    assert (out / "a").read_text() == "old" and names(tmp_path) == ["bundle"]


def test_folder_comes_back_when_the_swap_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "bundle"
    with atomic_dir(out) as fresh:
        (fresh / "a").write_text("old")
    real = Path.rename

    def interrupt_once(src: Path, dst: Path) -> Path:
        if dst == out and (src / "a").read_text() == "new":
            raise KeyboardInterrupt
        return real(src, dst)

    monkeypatch.setattr(Path, "rename", interrupt_once)
    with pytest.raises(KeyboardInterrupt), atomic_dir(out, overwrite=True) as fresh:
        (fresh / "a").write_text("new")
    assert (out / "a").read_text() == "old" and names(tmp_path) == ["bundle"]


def test_folder_that_porter_did_not_make_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with atomic_dir(home, overwrite=True) as fresh:  # an empty one may go
        (fresh / "x").write_text("")
    (home / files.MARK).unlink()
    with pytest.raises(PorterError) as caught:
        check_output(home, overwrite=True)
    assert code_of(caught) == "PT512" and "did not make" in str(caught.value)
    (home / files.MARK).touch()
    check_output(home, overwrite=True)
    with pytest.raises(PorterError, match="holds the input"):
        check_output(home, overwrite=True, inputs=[home / "x"])
    monkeypatch.chdir(home)
    with pytest.raises(PorterError, match="current folder"):
        check_output(".", overwrite=True)


# ------------------------------------------------------------------------------------- refusals before work
def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    cases = [
        ("file", {}, "PT512"),
        ("file", {"overwrite": True, "folder": True}, "PT510"),
        ("folder", {"overwrite": True, "folder": False}, "PT510"),
        ("file", {"overwrite": True, "inputs": [tmp_path / "file"]}, "PT512"),
        ("missing/file", {}, "PT510"),
        ("file/child", {}, "PT510"),
        ("a\0b", {}, "PT510"),
        ("x" * 300, {}, None),  # found out by the file system, on writing
    ]
    for name, options, code in cases:
        if code is None:
            with pytest.raises(PorterError) as caught, atomic_file(tmp_path / name) as temporary:
                temporary.write_text("y")
            assert code_of(caught) == "PT510"
            continue
        with pytest.raises(PorterError) as caught:
            check_output(tmp_path / name, **options)  # type: ignore[arg-type]
        assert code_of(caught) == code, name
    with pytest.raises(PorterError) as caught:
        check_output("/")
    assert code_of(caught) == "PT510"
    assert names(tmp_path) == ["file", "folder"]


def test_proc_is_not_writable() -> None:
    with pytest.raises(PorterError) as caught, atomic_file("/proc/porter.onnx"):
        pass
    assert code_of(caught) == "PT510"


def test_an_error_about_an_input_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "out"):
        (tmp_path / "no such input").read_bytes()


# ------------------------------------------------------------------------------------------- a full disk
@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_disk_full_keeps_the_old_output(small_disk: Path) -> None:
    out = small_disk / "out"
    out.write_bytes(b"old")
    with pytest.raises(PorterError) as caught, atomic_file(out, overwrite=True) as temporary:
        temporary.write_bytes(bytes(1 << 20))
    assert code_of(caught) == "PT511" and "MB free" in str(caught.value)
    with pytest.raises(PorterError) as caught, atomic_dir(small_disk / "bundle") as fresh:
        (fresh / "weights").write_bytes(bytes(1 << 20))
    assert code_of(caught) == "PT511"
    with pytest.raises(PorterError) as caught, atomic_file(small_disk / "m.pt") as temporary:
        try:
            temporary.write_bytes(bytes(1 << 20))
        except OSError:
            raise RuntimeError("[enforce fail at inline_container.cc] . unexpected pos") from None
    assert code_of(caught) == "PT511"
    assert names(small_disk) == ["out"] and out.read_bytes() == b"old"


def test_enospc_without_a_real_full_disk(tmp_path: Path) -> None:
    with pytest.raises(PorterError) as caught, atomic_file(tmp_path / "out"):
        Path("/dev/full").write_bytes(b"x")
    assert code_of(caught) == "PT511" and names(tmp_path) == []


# ---------------------------------------------------------------------------------------------- signals
PROGRAM = """
import signal, sys, time
from porter.files import atomic_dir, atomic_file
kind, out, handled = sys.argv[1:]
class Stopped(BaseException):
    pass
def stop(number, frame):
    raise Stopped
if handled == "yes":  # as a command line that has handlers of its own
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
else:  # a shell's background job starts with SIGINT ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with {"file": atomic_file, "dir": atomic_dir}[kind](out, overwrite=True) as temporary:
        (temporary if kind == "file" else temporary / "a").write_text("half")
        print("ready", flush=True)
        time.sleep(30)
except Stopped:
    sys.exit(2)
"""


@pytest.mark.parametrize("kind", ["file", "dir"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("handled", ["yes", "no"])
def test_signal_leaves_nothing_behind(tmp_path: Path, kind: str, number: signal.Signals, handled: str) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kind, str(out), handled],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    assert len(names(tmp_path)) == 1
    process.send_signal(number)
    status = process.wait(timeout=20)
    process.stdout.close()
    assert names(tmp_path) == []
    if handled == "yes":
        assert status == 2
    else:
        assert status == (-number if number == signal.SIGINT else 128 + number)


def test_handlers_of_others_are_left_alone(tmp_path: Path) -> None:
    def mine(number: int, frame: object) -> None:
        raise AssertionError

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with atomic_file(tmp_path / "a") as temporary:
            temporary.touch()
            assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


# ----------------------------------------------------------------------------------------------- the rest
def test_input_file(tmp_path: Path) -> None:
    good = tmp_path / "yolox_s.onnx"
    good.write_bytes(b"x")
    assert input_file(good) == good
    for name, expect in (("yolox_z.onnx", "yolox_s.onnx"), (".", "is a folder"), ("a\0", "there is no file")):
        with pytest.raises(PorterError) as caught:
            input_file(tmp_path / name)
        assert code_of(caught) == "PT501" and expect in str(caught.value)
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(PorterError, match="there is no file"):
        input_file(tmp_path / "dangling")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PorterError, match="regular file"):
        input_file(tmp_path / "pipe")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"porter")
    assert sha256(tmp_path / "a") == hashlib.sha256(b"porter").hexdigest()


@pytest.mark.parametrize("allow", [False, True])
def test_share_file(tmp_path: Path, allow: bool) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(os.urandom(100_000))
    how = share_file(source, target, allow_hardlink=allow)
    assert how in (("reflink", "hardlink") if allow else ("reflink", "copy"))
    assert target.read_bytes() == source.read_bytes()
    if not allow:
        target.write_bytes(b"changed")
        assert len(source.read_bytes()) == 100_000
    with pytest.raises(FileExistsError):
        share_file(source, target)
    with pytest.raises(OSError, match="not a regular file"):
        share_file(tmp_path, tmp_path / "c")


def test_a_failed_copy_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    source = tmp_path / "big"
    source.write_bytes(bytes(1 << 20))
    started = time.monotonic()
    with pytest.raises(OSError) as caught:
        share_file(source, small_disk / "b")
    assert caught.value.errno == errno.ENOSPC and names(small_disk) == []
    assert time.monotonic() - started < 5
