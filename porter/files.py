# SPDX-License-Identifier: Apache-2.0
"""Outputs that are whole or absent, and the few other things porter asks of a file system.

An output is written into a hidden folder beside its final place and renamed there at the end. Whatever
happens before that (an exception, Ctrl-C, SIGTERM, a full disk), the hidden folder is removed and an older
output is as it was. Input files are never opened for writing.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from porter.errors import PorterError

#: A folder that porter made holds this file; only such a folder, or an empty one, is ever replaced.
MARK = ".porter"
_MARK_TEXT = "This folder was made by porter. `--overwrite` replaces it as a whole.\n"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.ELOOP,
    errno.ENAMETOOLONG, errno.ETXTBSY, errno.EBUSY, errno.EXDEV, errno.EIO,
}  # fmt: skip
#: With less than this left, an error that a C++ writer reports without an errno is put down to the full disk.
_NO_SPACE = 1 << 16
_FICLONE = 0x40049409  # _IOW(0x94, 9, int), linux/fs.h
_SIGNALS = ("SIGTERM", "SIGHUP")


def input_file(path: str | os.PathLike[str]) -> Path:
    """The path of a file that exists and can be read.

    Raises:
        PorterError: PT501 when there is none (it names the nearest name in that folder), when it is a folder,
            or when the permission to read it is missing.
    """
    path = Path(path)
    try:
        if path.is_file():
            if not os.access(path, os.R_OK):
                raise PorterError("PT501", f"{path} cannot be read: permission denied", where=str(path))
            return path
        if path.is_dir():
            raise PorterError("PT501", f"{path} is a folder; a file is needed", where=str(path))
        exists = path.exists()
        names = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise PorterError("PT501", f"cannot look for {str(path)!r}: {error}") from error
    if exists:
        raise PorterError("PT501", f"{path} is a device or a pipe; a regular file is needed", where=str(path))
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    fix = f"Check the path. Near it there is: {path.parent / near[0]}" if near else "Check the path."
    raise PorterError("PT501", f"there is no file {path}", where=f"folder {Path.cwd()}", fix=fix)


def check_output(
    path: str | os.PathLike[str],
    overwrite: bool = False,
    inputs: Sequence[str | os.PathLike[str]] = (),
    folder: bool | None = None,
) -> Path:
    """Refuse, before any work is done, an output that could not be written at the end.

    Args:
        path: the file or folder to be made.
        overwrite: an existing one may be replaced.
        inputs: files that are read by the same command; an output never replaces one of them.
        folder: the output is a folder (True), a file (False), or either (None).

    Returns:
        The final place, with symbolic links resolved (a link stays a link: what it points to is replaced).

    Raises:
        PorterError: PT512 when it exists, is an input, or is a folder that porter did not make; PT510 when
            its parent is missing or not writable, or it is a file where a folder is asked for (or a folder
            where a file is).
    """
    shown = Path(path)
    try:
        final = Path(os.path.realpath(shown))
        parent = final.parent
        if not parent.is_dir():
            what = "is not a folder" if parent.exists() else "does not exist"
            message = f"cannot write {shown}: the folder {parent} {what}"
            raise PorterError("PT510", message, fix="Create it first.")
        if not final.name or final.is_mount():
            raise PorterError("PT510", f"cannot write {shown}: it is a file system's root")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PorterError("PT510", f"cannot write {shown}: no permission to write in {parent}")
        if not os.path.lexists(final):
            return final
        for source in inputs:
            if Path(source).exists() and final.samefile(source):
                raise PorterError("PT512", f"{shown} is also the input", fix="Choose another output.")
        is_folder = final.is_dir()
        if folder is not None and folder != is_folder:
            kinds = ("a file", "a folder")
            raise PorterError(
                "PT510", f"cannot write {shown}: it is {kinds[is_folder]}, and {kinds[folder]} is to be made"
            )
        if not overwrite:
            fix = "Add --overwrite to replace it, or choose another name."
            raise PorterError("PT512", f"{shown} exists already", fix=fix)
        if is_folder:
            _check_replaceable(shown, final, inputs)
        return final
    except (OSError, ValueError) as error:
        raise PorterError("PT510", f"cannot write {str(shown)!r}: {error}") from error


def _check_replaceable(shown: Path, final: Path, inputs: Sequence[str | os.PathLike[str]]) -> None:
    # `-o . --overwrite` must not cost anybody their home folder.
    fix = "Choose another folder, or remove this one yourself."
    if final in (Path.cwd(), *Path.cwd().parents):
        raise PorterError("PT512", f"{shown} is the current folder, or holds it", fix=fix)
    for source in inputs:
        if final in Path(os.path.realpath(source)).parents:
            raise PorterError("PT512", f"{shown} holds the input {source}", fix=fix)
    if any(final.iterdir()) and not (final / MARK).is_file():
        raise PorterError("PT512", f"{shown} is a folder that porter did not make", fix=fix)


@contextmanager
def atomic_file(
    path: str | os.PathLike[str], overwrite: bool = False, inputs: Sequence[str | os.PathLike[str]] = ()
) -> Iterator[Path]:
    """Give a path to write to, and make it ``path`` when the block ends without an exception.

    The given path has the same file name, in an empty hidden folder beside the final place. Other files that
    the block writes in that folder (an ONNX model's external data) go along: they are moved first, ``path``
    last. Either all are in place at the end or, after any exception, all that was there before.

    Raises:
        PorterError: as ``check_output``; PT511 when the disk is full; PT510 when a write is refused; PT512
            when a file that goes along exists and ``overwrite`` is false.
    """
    final = check_output(path, overwrite, inputs, folder=False)
    with _stage(Path(path), final.parent) as stage:
        yield stage / final.name
        written = sorted((entry for entry in stage.iterdir()), key=lambda entry: entry.name == final.name)
        if not written or written[-1].name != final.name:
            raise FileNotFoundError(f"the block wrote no {final.name}")
        for entry in written:
            if not entry.is_file() or entry.is_symlink():
                raise IsADirectoryError(f"{entry.name}: only regular files can go along with {final.name}")
            if entry.name != final.name:
                check_output(final.parent / entry.name, overwrite, inputs, folder=False)
            _sync(entry)
        _swap(stage, [(entry, final.parent / entry.name) for entry in written])


@contextmanager
def atomic_dir(
    path: str | os.PathLike[str], overwrite: bool = False, inputs: Sequence[str | os.PathLike[str]] = ()
) -> Iterator[Path]:
    """Give an empty folder to fill, and make it ``path`` when the block ends without an exception.

    An older folder is replaced as a whole, at the end, and is put back if that fails. The new folder also
    gets the file ``MARK``, by which a later ``--overwrite`` knows that the folder may be replaced.

    Raises:
        PorterError: as ``check_output``; PT511 when the disk is full; PT510 when a write is refused.
    """
    final = check_output(path, overwrite, inputs, folder=True)
    with _stage(Path(path), final.parent) as stage:
        fresh = stage / final.name
        fresh.mkdir()
        yield fresh
        (fresh / MARK).write_text(_MARK_TEXT, encoding="utf-8")
        for root, _, names in os.walk(fresh):
            for name in names:
                _sync(Path(root, name))
        _swap(stage, [(fresh, final)])


@contextmanager
def _stage(shown: Path, parent: Path) -> Iterator[Path]:
    """A hidden folder in ``parent``, removed at the end; errors of the output become PorterErrors."""
    stage = parent / f".porter-{secrets.token_hex(6)}"
    # A signal whose default is to end the process at once would leave the hidden folder behind.
    with _signals_raise():
        try:
            stage.mkdir(mode=0o700)
            yield stage
        except OSError as error:
            raise _output_error(error, shown, stage) or error from error
        except (RuntimeError, ValueError) as error:
            # torch's and protobuf's C++ writers say "write failed" without an errno.
            if _free(parent) < _NO_SPACE:
                raise _disk_full(shown, parent) from error
            raise
        finally:
            shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def _signals_raise() -> Iterator[None]:
    def handler(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before: dict[int, object] = {}
    if threading.current_thread() is threading.main_thread():
        for name in _SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number in before:
            signal.signal(number, signal.SIG_DFL)


def _swap(stage: Path, moves: list[tuple[Path, Path]]) -> None:
    """Rename each (new, final). ``stage`` keeps the old ones; on any exception they are put back."""
    attic = stage / secrets.token_hex(6)
    attic.mkdir()
    try:
        for new, final in moves:
            if os.path.lexists(final):
                if final.is_dir():
                    final.rename(attic / final.name)
                else:
                    # A second name for the old file: the rename below then leaves no moment without one.
                    _keep(final, attic / final.name)
            new.rename(final)
    except BaseException:
        # What happened is read off the file system: an interrupt can fall between a rename and a flag.
        for new, final in reversed(moves):
            old = attic / final.name
            if not os.path.lexists(new) and os.path.lexists(final):
                final.rename(new)
            if os.path.lexists(old) and not os.path.lexists(final):
                old.rename(final)
        raise


def _keep(path: Path, copy: Path) -> None:
    try:
        copy.hardlink_to(path)
    except OSError:  # a file system without hard links
        path.rename(copy)


def _sync(path: Path) -> None:
    # Quotas and network file systems report a failed write only here.
    with path.open("rb") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return _NO_SPACE


def _disk_full(shown: Path, folder: Path) -> PorterError:
    return PorterError(
        "PT511",
        f"no space left on the device for {shown}",
        where=f"{folder}, {_free(folder) / 1e6:.0f} MB free",
        fix="Free some space, or choose another folder with -o.",
    )


def _output_error(error: OSError, shown: Path, stage: Path) -> PorterError | None:
    """The PorterError for an OSError of the output; None when the error is about some other file."""
    if error.errno in _FULL:
        return _disk_full(shown, stage.parent)
    ours = any(str(name).startswith(str(stage)) for name in (error.filename, error.filename2))
    if error.errno in _REFUSED and ours:
        return PorterError(
            "PT510",
            f"cannot write {shown}: {error.strerror}",
            where=str(stage.parent),
            fix="Choose a folder that you may write to.",
        )
    return None


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, as 64 lower-case hexadecimal digits. The file is streamed."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def share_file(src: str | os.PathLike[str], dst: str | os.PathLike[str], allow_hardlink: bool = False) -> str:
    """Make ``dst`` (which must not exist) a file with the content of ``src``, as cheaply as can be.

    Args:
        src: a regular file; it is only read.
        dst: the new file.
        allow_hardlink: ``dst`` may become a second name of the same file. Only for large data that nobody
            edits in place, since an edit of either would change both.

    Returns:
        How: "reflink" (copy on write), "hardlink" or "copy".

    Raises:
        FileExistsError: when ``dst`` exists.
        OSError: when it cannot be written; ``dst`` is then removed.
    """
    src, dst = Path(src), Path(dst)
    if not src.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(src))
    with src.open("rb") as source, dst.open("xb") as target:
        if _reflink(source.fileno(), target.fileno()):
            return "reflink"
    dst.unlink()
    if allow_hardlink:
        try:
            dst.hardlink_to(src)
            return "hardlink"
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno in _FULL:
                raise
    try:
        with src.open("rb") as source, dst.open("xb") as target:
            shutil.copyfileobj(source, target, 1 << 22)
    except FileExistsError:
        raise
    except BaseException:
        dst.unlink(missing_ok=True)
        raise
    return "copy"


def _reflink(source: int, target: int) -> bool:
    try:
        import fcntl
    except ImportError:  # not a Unix
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True
