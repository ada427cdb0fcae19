# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of any age → named numpy arrays, and arrays → a checkpoint that an old torch reads.

Nothing that a file pickles is run, and torch is not needed. ``kind_of`` tells by its content what a file is,
``read_checkpoint`` finds the weights in it, ``resave`` writes them again for a stated version of torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from porter.errors import PorterError
from porter.files import atomic_file, check_output, input_file, sha256
from porter.pickled import Damaged, Excessive, Global, Ordered, Stub
from porter.weights import (
    LEGACY_MAGIC,
    LEGACY_PROTOCOL,
    Absent,
    Archive,
    Array,
    Arrays,
    Content,
    NumpyArray,
    Sparse,
    Tensor,
    map_file,
    read_legacy,
    read_npz,
    read_pickle,
    read_safetensors,
    read_tar,
    read_zip,
    reading,
)

__all__ = [
    "Checkpoint", "Kind", "ResaveReport", "fingerprints", "kind_of", "read_checkpoint", "resave",
    "write_checkpoint",
]  # fmt: skip

#: Keys under which training code keeps averaged weights, which are the ones that it evaluates.
_EMA_KEYS = ("ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "params_ema")
#: Keys under which training code keeps weights, the most telling first.
_WEIGHT_KEYS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params",
)  # fmt: skip
_TRAINING = re.compile(r"optim|sched|scaler|^amp$|^opt$|rng|callback|^loops$|momentum_buffer", re.IGNORECASE)
_KNOWN_CODE = (
    "torch.", "__torch__.", "collections.", "numpy.", "builtins.", "__builtin__.", "_codecs.", "copyreg.",
    "copy_reg.",
)  # fmt: skip
_MAX_NODES = 2_000_000
_MAX_DEPTH = 100
_MAX_METADATA = 500


# --------------------------------------------------------------------------------------------- reading
@dataclass
class Checkpoint:
    """The weights of a file, and what was found beside them."""

    path: Path
    format: str
    """"zip", "legacy", "tar", "pickle", "safetensors", "npz" or "torchscript"."""
    tensors: dict[str, Array]
    """Name → read-only array. Tied weights are the same array object."""
    dtypes: dict[str, str]
    """Name → torch's name of the dtype in the file, where it is not the array's (bfloat16, qint8, ...)."""
    container_key: str
    """Where in the file they were ("model", "ema.module", ...); "" when they are the file's top object."""
    metadata: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    """Plain values beside the weights, such as the epoch."""
    versions: dict[str, int] = field(default_factory=dict)
    """The state dict's own ``_metadata``: module path → version of its layout."""
    dropped: dict[str, str] = field(default_factory=dict)
    """Names without an array, and why."""
    notes: list[str] = field(default_factory=list)
    """What was changed or is worth knowing, one sentence each."""
    globals: list[str] = field(default_factory=list)
    """Every Python name that the file's pickle refers to. None of them was imported."""
    is_module_pickle: bool = False
    """The weights are attributes of a pickled nn.Module: its graph exists only by running its class."""


def read_checkpoint(path: str | os.PathLike[str], *, key: str | None = None, strict: bool = True) -> Checkpoint:
    """Read the weights in a checkpoint, without running what it pickles.

    The weights are looked for under the usual keys ("model", "state_dict", "ema", ...; averaged weights first where
    they cover the same names), in whole pickled modules, and in nested dictionaries. "module." (DataParallel) and
    "_orig_mod." (torch.compile) are taken off the names. Dtypes that numpy lacks are widened exactly (bfloat16 and
    float8 to float32), quantized tensors are dequantized to float32, and both are noted.

    Args:
        path: a file of torch.save of any version, TorchScript, safetensors, .npz, or a plain pickle of arrays.
        key: take the weights from here ("ema", "ema.module") instead of looking.
        strict: refuse a file whose pickle names a function such as os.system (PT504). Reading it is safe even so;
            with False the name is only listed in ``globals``.

    Raises:
        PorterError: PT501 missing, PT502 damaged, PT503 not a checkpoint or no tensors in it, PT504 as above,
            PT514 declares more than it holds, PT519 there is no such ``key``.
    """
    path = input_file(path)
    with reading(path):
        container = _container(path)
        if container.name not in _READABLE:
            raise PorterError("PT503", f"{path} is not a checkpoint: {container.reason}", where=str(path))
        return _checkpoint(path, _content(path, container.name, strict), key)


def _content(path: Path, container: str, strict: bool, check: bool = True) -> Content:
    if container == "safetensors":
        return read_safetensors(path)
    if container == "npz":
        return read_npz(path)
    if container == "legacy":
        return read_legacy(path, strict)
    if container == "tar":
        return read_tar(path, strict)
    if container == "pickle":
        return read_pickle(path, strict)
    return read_zip(path, strict, check)


def _checkpoint(path: Path, content: Content, key: str | None) -> Checkpoint:
    top, finder = content.value, _Finder()
    found = finder.choose(top) if key is None else _by_key(finder, top, key, path)
    notes = content.notes + finder.notes
    names, prefixes = _plain_names(list(found.leaves))
    notes.extend(f"the prefix {prefix!r} was taken off the names" for prefix in prefixes)
    arrays = Arrays(path.stat().st_size)
    made = Checkpoint(path, content.format, {}, {}, ".".join(found.path), notes=notes)
    for name, old in names.items():
        leaf = found.leaves[old]
        array = arrays.array(leaf)
        if isinstance(array, Absent):
            made.dropped[name] = array.why
            continue
        made.tensors[name] = array
        stored = arrays.dtype(leaf)
        if not isinstance(leaf, (np.ndarray, NumpyArray)) and stored != str(array.dtype):
            made.dtypes[name] = stored
        if isinstance(leaf, Sparse):
            notes.append(f"the sparse tensor {name} was made dense")
    notes.extend(_changes(made))
    made.metadata = _metadata(top, found)
    made.versions = _versions(found.metadata, prefixes)
    made.globals = sorted(content.globals)
    made.is_module_pickle = found.is_module and content.format != "torchscript"
    if made.is_module_pickle:
        notes.append("the weights were read out of a pickled nn.Module, whose class was not run")
    unknown = [name for name in made.globals if not name.startswith(_KNOWN_CODE)]
    if unknown:
        shown = ", ".join(name[:80] for name in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        notes.append(f"the pickle names other code, which was read as data: {shown}")
    if not made.tensors and not found.is_module:
        raise PorterError("PT503", f"{path} holds no tensors by name", where=f"{path} ({content.format})")
    return made


def _changes(made: Checkpoint) -> list[str]:
    groups: dict[str, list[str]] = {}
    for name, stored in made.dtypes.items():
        verb = "dequantized" if stored.startswith("q") else "widened"
        groups.setdefault(f"{verb} from {stored} to {made.tensors[name].dtype}", []).append(name)
    for name, why in made.dropped.items():
        groups.setdefault(f"left out: {why}", []).append(name)
    return [f"{_count(names)} {change}" for change, names in groups.items()]


def _count(names: list[str]) -> str:
    shown = ", ".join(name[:80] for name in names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} tensor{'s' if len(names) != 1 else ''} ({shown})"


@dataclass
class _Found:
    path: list[str]
    leaves: dict[str, Any]
    is_module: bool = False
    metadata: Any = None


def _module_state(value: Any) -> Mapping[Any, Any] | None:
    """The attributes of a pickled nn.Module (or of a TorchScript module); None for anything else."""
    if not isinstance(value, Stub):
        return None
    states = value.state if isinstance(value.state, tuple) else (value.state,)
    for state in (*states, *value.args):  # fx.GraphModule is made by a call with its attributes
        if isinstance(state, dict) and ("_parameters" in state or "_modules" in state):
            return state
    if value.path.startswith("__torch__") and isinstance(value.state, dict):
        return value.state
    return None


class _Finder:
    """Looks for weights in a tree of values, with a bound on the work: values may be shared and cyclic."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._left = _MAX_NODES
        self._chosen: dict[int, _Found] = {}

    # ---- collecting names below one value
    def collect(self, value: Any) -> _Found:
        """Every tensor below a value, named by its path."""
        leaves: dict[str, Any] = {}
        state = _module_state(value)
        if state is not None:
            self._module(leaves, state, "", 0)
            return _Found([], leaves, is_module=True)
        self._dictionary(leaves, _mapping(value), "", 0)
        ordered = isinstance(value, Ordered) and isinstance(value.state, dict)
        return _Found([], leaves, metadata=value.state.get("_metadata") if ordered else None)

    def _step(self, name: str, depth: int) -> None:
        self._left -= 1 + len(name) // 64
        if self._left < 0 or depth > _MAX_DEPTH or len(name) > 4096:
            raise Excessive("its objects are nested without end")

    def _module(self, leaves: dict[str, Any], state: Mapping[Any, Any], prefix: str, depth: int) -> None:
        if "_parameters" in state or "_modules" in state:
            transient = state.get("_non_persistent_buffers_set")
            transient = transient if isinstance(transient, (set, frozenset)) else ()
            own = [*_pairs(state.get("_parameters"))]
            own += [(name, leaf) for name, leaf in _pairs(state.get("_buffers")) if name not in transient]
            children = _pairs(state.get("_modules"))
        else:  # TorchScript: plain attributes
            own, children = [*_pairs(state)], _pairs(state)
        for name, leaf in own:
            self._step(prefix + name, depth)
            if _is_leaf(leaf):
                leaves.setdefault(prefix + name, leaf)
        for name, child in children:
            inner = _module_state(child)
            if inner is not None:
                self._step(prefix + name, depth)
                self._module(leaves, inner, f"{prefix}{name}.", depth + 1)

    def _dictionary(self, leaves: dict[str, Any], value: Mapping[Any, Any], prefix: str, depth: int) -> None:
        for name, item in _pairs(value):
            self._step(prefix + name, depth)
            if _is_leaf(item):
                leaves.setdefault(prefix + name, item)
                continue
            state = _module_state(item)
            if state is not None:
                self._module(leaves, state, f"{prefix}{name}.", depth + 1)
            elif isinstance(item, (dict, Stub)) and not _TRAINING.search(name):
                self._dictionary(leaves, _mapping(item), f"{prefix}{name}.", depth + 1)

    # ---- choosing among the keys of a checkpoint
    def choose(self, value: Any) -> _Found:
        """The best state dict in a checkpoint's top object."""
        if id(value) not in self._chosen:
            self._chosen[id(value)] = _Found([], {})  # what a cycle finds when it comes back here
            self._chosen[id(value)] = self._choose(value)
        return self._chosen[id(value)]

    def _choose(self, value: Any) -> _Found:
        if _module_state(value) is not None:
            return self.collect(value)
        table = _mapping(value)
        usual: dict[str, _Found] = {}
        for key in (*_EMA_KEYS, *_WEIGHT_KEYS):
            if isinstance(table.get(key), (dict, Stub)):
                found = self.choose(table[key])
                if found.leaves or found.is_module:
                    usual[key] = replace(found, path=[key, *found.path])
        if usual:
            return self._best(usual)
        found = self.collect(value)
        nested = sorted({name.partition(".")[0] for name in found.leaves if name not in table} & set(table))
        # {"step": 1, "checkpoint": {...}}: one unusual key.
        if len(nested) == 1 and not any(name in table for name in found.leaves) and not isinstance(value, Stub):
            inner = self.choose(table[nested[0]])
            return replace(inner, path=[nested[0], *inner.path])
        if nested:
            shown = ", ".join(name[:40] for name in nested[:5])
            self.notes.append(f"nested dictionaries ({shown}) were joined: their keys are prefixes of the names")
        return found

    def _best(self, usual: dict[str, _Found]) -> _Found:
        best = usual[next(iter(usual))]
        raw = next((usual[key] for key in _WEIGHT_KEYS if key in usual), best)
        have, _ = _plain_names(list(best.leaves))
        need, _ = _plain_names(list(raw.leaves))
        if not set(need) <= set(have):  # the averaged weights are not all of the model
            best = raw
        others = sorted(".".join(found.path) for found in usual.values() if found is not best)
        if others:
            chosen = ".".join(best.path)
            self.notes.append(f"weights are under {', '.join(others)} too; those of {chosen} were taken")
        return best


def _is_leaf(value: Any) -> bool:
    return isinstance(value, (Tensor, Sparse, Absent, NumpyArray, np.ndarray))


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((key, item) for key, item in value.items() if isinstance(key, str))


def _mapping(value: Any) -> Mapping[Any, Any]:
    """A value as a dictionary: itself, a subclass of dict, a list by index, or the attributes of an object."""
    if isinstance(value, dict):
        return value
    if isinstance(value, (list, tuple)) and len(value) <= 16:
        return {str(index): item for index, item in enumerate(value)}
    if isinstance(value, Stub):
        return value.pairs or (value.state if isinstance(value.state, dict) else {})
    return {}


def _by_key(finder: _Finder, top: Any, key: str, path: Path) -> _Found:
    value = top
    for part in key.split("."):
        table = _mapping(value)
        if part not in table:
            known = ", ".join(sorted(name[:40] for name, _ in _pairs(table))[:12])
            raise PorterError("PT519", f"{path} has no key {key!r}", where=str(path), fix=f"There are: {known}")
        value = table[part]
    return replace(finder.collect(value), path=key.split("."))


def _plain_names(names: list[str]) -> tuple[dict[str, str], list[str]]:
    """New name → old name without the prefixes of wrappers, and the prefixes taken off."""
    new, prefixes = list(names), []
    if any("_orig_mod" in name.split(".") for name in new):
        new = [".".join(part for part in name.split(".") if part != "_orig_mod") for name in new]
        prefixes.append("_orig_mod.")
    # AveragedModel has a counter beside its module.
    wrapped = [name for name in new if name != "n_averaged"]
    while wrapped and all(name.startswith("module.") and len(name) > 7 for name in wrapped):
        new = [name.removeprefix("module.") for name in new if name != "n_averaged"]
        names = [name for name in names if name != "n_averaged"]
        wrapped = new
        prefixes.append("module.")
    if len(set(new)) != len(new):
        return {name: name for name in names}, []
    return dict(zip(new, names, strict=True)), prefixes


def _versions(metadata: Any, prefixes: list[str]) -> dict[str, int]:
    versions = {
        module: entry["version"]
        for module, entry in _pairs(metadata)
        if isinstance(entry, dict) and type(entry.get("version")) is int and 0 <= entry["version"] < 1 << 31
    }
    for prefix in prefixes:
        wrapper = prefix.removesuffix(".")
        versions = {module.removeprefix(prefix): version for module, version in versions.items() if module != wrapper}
    return versions


def _metadata(top: Any, found: _Found) -> dict[str, str | int | float | bool | None]:
    result: dict[str, str | int | float | bool | None] = {}

    def add(name: str, value: Any) -> bool:
        if len(result) >= _MAX_METADATA or len(name) > 200:
            return True
        plain = value is None or isinstance(value, (bool, float))
        plain = plain or (isinstance(value, int) and value.bit_length() <= 64)
        if plain or (isinstance(value, str) and len(value) <= 1000):
            result[name] = value
            return True
        return False

    if found.path or not found.is_module:
        for name, value in _pairs(_mapping(top)):
            if not add(name, value) and isinstance(value, (dict, Stub)) and _module_state(value) is None:
                for inner, item in _pairs(_mapping(value)):
                    add(f"{name}.{inner}", item)
    return result


def fingerprints(tensors: Mapping[str, Array]) -> dict[str, tuple[str, tuple[int, ...], str]]:
    """Name → (numpy dtype, shape, SHA-256 of the elements, little-endian and in C order).

    The same can be computed in an old environment from what its torch.load gives, to show that every bit arrived:
    ``hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()``.
    """
    result = {}
    for name, array in tensors.items():
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        result[name] = (str(array.dtype), array.shape, hashlib.sha256(little.tobytes()).hexdigest())
    return result


# ---------------------------------------------------------------------------------------- what is it?
@dataclass(frozen=True)
class Kind:
    """What a file is, by its content."""

    name: str
    """"onnx", "pt2", "torchscript", "checkpoint-zip", "checkpoint-legacy", "checkpoint-tar", "checkpoint-pickle",
    "pickled-module", "safetensors", "npz" or "unknown"."""
    reason: str
    """How it was recognized, or what it looks like instead."""


_READABLE = ("zip", "torchscript", "legacy", "tar", "pickle", "safetensors", "npz")
_LOOKS = (
    (b"\x89PNG\r\n\x1a\n", "a PNG image"), (b"\xff\xd8\xff", "a JPEG image"), (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"), (b"\x7fELF", "a program (ELF)"), (b"MZ", "a Windows program"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"), (b"BZh", "a bzip2 archive: unpack it first"),
    (b"\xfd7zXZ\0", "an xz archive: unpack it first"), (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it first"), (b"Rar!", "a RAR archive: unpack it first"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras or MATLAB)"), (b"GGUF", "a GGUF file (llama.cpp)"),
    (b"\x93NUMPY", "a single numpy array (.npy)"), (b"7767517", "an ncnn parameter file"),
    (b"<?xml", "an XML document"), (b"<!DOCTYPE html", "a web page: the download failed"),
    (b"<html", "a web page: the download failed"), (b"RIFF", "a WebP, WAV or AVI file"),
    (b"PK\x05\x06", "an empty zip archive"),
)  # fmt: skip


def kind_of(path: str | os.PathLike[str]) -> Kind:
    """What a file is, by its content (never by its name), without torch and without running anything.

    Raises:
        PorterError: PT501 missing, PT502 damaged (it begins like a model and is cut short, or is a Git LFS pointer),
            PT514 declares more than it holds.
    """
    path = input_file(path)
    with reading(path):
        found = _container(path)
        if found.name not in ("zip", "legacy", "tar", "pickle"):
            return found
        content = _content(path, found.name, strict=False, check=False)
        chosen = _Finder().choose(content.value)
        key = ".".join(chosen.path)
        at = f" under {key!r}" if key else ""
        if chosen.is_module:
            return Kind("pickled-module", f"{found.reason}, with a pickled nn.Module{at}: {_class_of(content, key)}")
        if not chosen.leaves:
            return Kind("unknown", f"{found.reason}, with no tensors by name in it")
        return Kind(f"checkpoint-{found.name}", f"{found.reason}, with {len(chosen.leaves)} tensors{at}")


def _class_of(content: Content, key: str) -> str:
    value = content.value
    for part in key.split(".") if key else ():
        value = _mapping(value).get(part)
    return value.path[:200] if isinstance(value, Stub) else "unknown"


def _container(path: Path) -> Kind:
    """The outermost format: a name of _READABLE, or "onnx", "pt2" or "unknown"."""
    with path.open("rb") as file:
        head = file.read(4096)
        size = os.fstat(file.fileno()).st_size
    if not head:
        raise Damaged("the file is empty")
    if head.startswith(b"version https://git-lfs"):
        raise Damaged("it is a Git LFS pointer; `git lfs pull` fetches the file itself")
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path)
    if head.startswith(LEGACY_MAGIC):
        return Kind("legacy", "a torch.save file in the legacy format")
    if len(head) < len(LEGACY_MAGIC) and LEGACY_MAGIC.startswith(head):
        raise Damaged("the file ends inside the first bytes of torch's legacy format")
    for magic, what in _LOOKS:
        if head.startswith(magic):
            return Kind("unknown", f"it looks like {what}")
    if head[257:262] == b"ustar":
        with path.open("rb") as file:
            return _tar_kind(file)
    if head[4:8] == b"TFL3":
        return Kind("unknown", "it looks like a TensorFlow Lite model")
    (length,) = struct.unpack("<Q", head[:8].ljust(8, b"\xff"))
    if head[8:9] == b"{" and length < 100_000_000:
        if length > size - 8:
            raise Damaged("it begins like safetensors, and ends inside the header")
        return Kind("safetensors", "a safetensors file")
    if _is_onnx(path):
        return Kind("onnx", "an ONNX model (protobuf)")
    if head[0] == 0x80 and head[1:2] and head[1] <= 5:
        return Kind("pickle", "a plain pickle")
    if not head.lstrip():
        return Kind("unknown", "it holds nothing but blanks")
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        text = head[: error.start].decode("utf-8") if error.start > len(head) - 4 else ""
    if text and text.isprintable() is False and any(ord(c) < 9 for c in text):
        text = ""
    if text:
        what = "JSON" if text.lstrip()[:1] in "{[" else "text"
        return Kind("unknown", f"it looks like {what}, and begins with {text[:40]!r}")
    return Kind("unknown", f"it begins with the bytes {head[:8].hex(' ')}, which no format that porter reads has")


def _zip_kind(path: Path) -> Kind:
    archive = Archive(path)
    names = archive.infos
    if archive.root("archive_format") is not None and archive.root("models/model.json") is not None:
        return Kind("pt2", "a torch.export program (.pt2)")
    if archive.root("serialized_exported_program.json") is not None:
        return Kind("pt2", "a torch.export program (before torch 2.7)")
    root = archive.root("data.pkl")
    if root is not None:
        if f"{root}constants.pkl" in names or any(name.startswith(f"{root}code/") for name in names):
            return Kind("torchscript", "a TorchScript archive")
        return Kind("zip", "a torch.save file in the zip format")
    if archive.root("model.json") is not None and any("code/" in name for name in names):
        return Kind("unknown", "it looks like a TorchScript archive of torch 1.0 to 1.3: save it again with torch 1.4")
    if any(name.endswith(".npy") for name in names):
        return Kind("npz", "a numpy .npz archive")
    for name, what in (
        ("word/document.xml", "a Word document"), ("config.json", "a Keras 3 archive"),
        ("META-INF/MANIFEST.MF", "a Java archive"), ("AndroidManifest.xml", "an Android package"),
    ):  # fmt: skip
        if name in names:
            return Kind("unknown", f"it looks like {what}")
    shown = ", ".join(name[:40] for name in list(names)[:3])
    return Kind("unknown", f"it is a zip archive without a model in it (it has {shown})")


def _tar_kind(file: IO[bytes]) -> Kind:
    import tarfile

    with tarfile.open(fileobj=file, mode="r:") as tar:
        names = {member.name.removeprefix("./") for member in tar}
    if {"storages", "tensors", "pickle"} <= names:
        return Kind("tar", "a torch.save file of torch 0.1 (tar)")
    return Kind("unknown", "it looks like a tar archive: unpack it first")


# onnx.proto, message ModelProto: field number → wire type
_MODEL_PROTO = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}


def _is_onnx(path: Path) -> bool:
    """Whether the fields of the file are those of a ModelProto with an ir_version and a graph.

    Raises:
        Damaged: they are, up to a field that the file ends in.
    """
    data = map_file(path)
    at, seen, end = 0, set[int](), len(data)
    try:
        for _ in range(_MAX_NODES):
            if at >= end:
                break
            tag, at = _varint(data, at)
            number, wire = tag >> 3, tag & 7
            if _MODEL_PROTO.get(number) != wire:
                return False
            value, at = _varint(data, at)
            if number == 1 and not 0 < value < 100:
                return False
            seen.add(number)
            at += value if wire == 2 else 0
    except EOFError:
        at = end + 1
    if at > end and len(seen) > 1 and data[0] == 0x08:  # every known writer begins with ir_version
        raise Damaged("it begins like an ONNX model, and ends inside a field")
    return at == end and {1, 7} <= seen


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise EOFError
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise EOFError


# --------------------------------------------------------------------------------------------- writing
@dataclass(frozen=True)
class ResaveReport:
    """What was written, and how it differs from what was read."""

    source: str
    source_format: str
    container_key: str
    output: str
    format: str
    for_torch: str
    tensors: int
    elements: int
    nbytes: int
    sha256: str
    converted: dict[str, tuple[str, str]]
    """Name → (dtype in the source, dtype in the output)."""
    dropped: dict[str, str]
    """Name → why it is not in the output."""
    tied: list[list[str]]
    """Names that share one storage, in the source and in the output."""
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        key = f" (under {self.container_key!r})" if self.container_key else ""
        lines = [
            f"{self.output}: {self.tensors} tensors, {self.elements} elements, {self.format} for torch"
            f" {self.for_torch}, read back bit for bit",
            f"  from {self.source}, {self.source_format}{key}",
            f"  sha256 {self.sha256}",
        ]
        groups: dict[tuple[str, str], list[str]] = {}
        for name, change in self.converted.items():
            groups.setdefault(change, []).append(name)
        lines += [f"  converted: {_count(names)} from {old} to {new}" for (old, new), names in groups.items()]
        reasons: dict[str, list[str]] = {}
        for name, why in self.dropped.items():
            reasons.setdefault(why, []).append(name)
        lines += [f"  dropped: {_count(names)}: {why}" for why, names in reasons.items()]
        if self.tied:
            lines.append(f"  tied: {len(self.tied)} groups of names share their storage, as in the source")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def resave(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    for_torch: str = "1.3",
    format: str = "legacy",
    *,
    overwrite: bool = False,
    key: str | None = None,
    strict: bool = True,
) -> ResaveReport:
    """Read a checkpoint of any age and write its weights, as one flat state dict, for a stated torch.

    Args:
        src: as for ``read_checkpoint``.
        out: the file to make; replaced only with ``overwrite``, and only when the new one has been read back and
            compared bit for bit.
        for_torch: "1.3", "1.3.1", "2.13": the oldest version that has to read it. Dtypes that it does not have are
            converted where every value survives, else dropped; the report says which.
        format: "legacy" (any torch since 0.4), "zip" (since 1.6) or "safetensors".
        key, strict: as for ``read_checkpoint``.

    Raises:
        PorterError: as ``read_checkpoint`` and ``porter.files.atomic_file``; PT519 for a version or format that is
            not one of these, or do not go together.
    """
    _check_format(format, for_torch)
    check_output(out, overwrite, [src], folder=False)
    checkpoint = read_checkpoint(src, key=key, strict=strict)
    kept, changed, dropped = _for_version(checkpoint.tensors, _version(for_torch), format)
    if not kept:
        raise PorterError("PT503", f"no tensor of {src} can be read by torch {for_torch}", where=str(src))
    converted = {name: (dtype, str(checkpoint.tensors[name].dtype)) for name, dtype in checkpoint.dtypes.items()}
    for name, (old, new) in changed.items():
        converted[name] = (converted[name][0] if name in converted else old, new)
    told = _changes(checkpoint)  # by ``converted`` and ``dropped``
    notes = [note for note in checkpoint.notes if note not in told]
    if format == "safetensors" and _tied(kept):
        notes.append("safetensors cannot share storages: tied weights were written once for each name")
    overlapping = _overlapping(kept)
    if overlapping:
        notes.append(f"{_count(overlapping)} overlapped in memory, and have storages of their own now")
    digest = _write(out, kept, format, overwrite, [src], checkpoint.versions)
    return ResaveReport(
        source=str(src),
        source_format=checkpoint.format,
        container_key=checkpoint.container_key,
        output=str(out),
        format=format,
        for_torch=for_torch,
        tensors=len(kept),
        elements=sum(array.size for array in kept.values()),
        nbytes=sum(array.nbytes for array in kept.values()),
        sha256=digest,
        converted={name: change for name, change in converted.items() if name in kept},
        dropped={**checkpoint.dropped, **dropped},
        tied=[] if format == "safetensors" else _tied(kept),
        notes=notes,
    )


def write_checkpoint(
    out: str | os.PathLike[str],
    tensors: Mapping[str, Array],
    for_torch: str = "1.3",
    format: str = "legacy",
    *,
    overwrite: bool = False,
) -> str:
    """Write named arrays as a state dict that the stated torch reads; arrays that are one object share a storage.

    The file is read back and compared bit for bit before it takes its place.

    Returns:
        The file's SHA-256.

    Raises:
        PorterError: PT519 when the version does not have an array's dtype, or as ``resave``.
    """
    _check_format(format, for_torch)
    kept, changed, dropped = _for_version(tensors, _version(for_torch), format)
    if changed or dropped:
        name = next(iter(changed or dropped))
        raise PorterError("PT519", f"torch {for_torch} has no {tensors[name].dtype}, the dtype of {name!r}")
    return _write(out, kept, format, overwrite, (), {})


def _write(
    out: str | os.PathLike[str],
    tensors: Mapping[str, Array],
    format: str,
    overwrite: bool,
    inputs: Iterable[str | os.PathLike[str]],
    versions: Mapping[str, int],
) -> str:
    with atomic_file(out, overwrite, list(inputs)) as temporary:
        with temporary.open("wb") as file:
            _WRITERS[format](file, tensors, versions)
        _verify(temporary, format, tensors)
        return sha256(temporary)


def _verify(path: Path, format: str, tensors: Mapping[str, Array]) -> None:
    with reading(path):
        leaves = _content(path, format, strict=True).value
        arrays = Arrays(path.stat().st_size)
        read = {name: arrays.array(leaf) for name, leaf in leaves.items()}
    for name, array in tensors.items():
        back = read.pop(name)
        if isinstance(back, Absent) or (back.dtype, back.shape) != (array.dtype, array.shape):
            raise AssertionError(f"{name} was written as something else")  # a bug of this module
        if not np.array_equal(_bytes(back), _bytes(array)):
            raise AssertionError(f"{name} was not written as it is")  # a bug of this module
    if read:
        raise AssertionError(f"{next(iter(read))} was written and not asked for")


def _bytes(array: Array) -> Array:
    """The elements in C order as uint8[n]; the bits of NaNs count."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _version(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,3})\.(\d{1,3})(?:[.+].*)?", text)
    if not found or (int(found[1]), int(found[2])) < (0, 4):
        raise PorterError("PT519", f"--for-torch takes a version since 0.4, such as 1.3, not {text!r}")
    return int(found[1]), int(found[2])


def _check_format(format: str, for_torch: str) -> None:
    version = _version(for_torch)
    if format not in _WRITERS:
        raise PorterError("PT519", f"--format takes {', '.join(_WRITERS)}, not {format!r}")
    if format == "zip" and version < (1, 6):
        raise PorterError(
            "PT519", f"torch {for_torch} does not read the zip format, which came with 1.6", fix="Use --format legacy."
        )


# The first release of torch that reads tensors of a dtype (release notes of 1.2, 1.6 and 2.3).
_SINCE = {
    "float32": (0, 4), "float64": (0, 4), "float16": (0, 4), "int64": (0, 4), "int32": (0, 4), "int16": (0, 4),
    "int8": (0, 4), "uint8": (0, 4), "bool": (1, 2), "complex64": (1, 6), "complex128": (1, 6),
    "uint16": (2, 3), "uint32": (2, 3), "uint64": (2, 3),
}  # fmt: skip
# Even a new torch does not read these from the legacy format (its reader asks UntypedStorage for a dtype).
_NOT_IN = {"legacy": ("uint16", "uint32", "uint64"), "safetensors": ("complex128",)}
_WIDER = {"uint16": "int32", "uint32": "int64", "uint64": "int64", "bool": "uint8"}


def _for_version(
    tensors: Mapping[str, Array], version: tuple[int, int], format: str
) -> tuple[dict[str, Array], dict[str, tuple[str, str]], dict[str, str]]:
    """What to write, what was converted (from, to), what was dropped and why."""
    kept: dict[str, Array] = {}
    changed: dict[str, tuple[str, str]] = {}
    dropped: dict[str, str] = {}
    done: dict[int, Array] = {}  # tied weights stay tied
    for name, array in tensors.items():
        dtype = str(array.dtype)
        since = _SINCE.get(dtype)
        if since is not None and since <= version and dtype not in _NOT_IN.get(format, ()):
            kept[name] = array
            continue
        wider = _WIDER.get(dtype)
        if wider is None or (dtype == "uint64" and array.size and int(array.max()) >= 1 << 63):
            dropped[name] = f"torch {version[0]}.{version[1]} in the {format} format has no {dtype}"
            continue
        if id(array) not in done:
            done[id(array)] = array.astype(wider)
        kept[name] = done[id(array)]
        changed[name] = dtype, wider
    return kept, changed, dropped


def _tied(tensors: Mapping[str, Array]) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for name, array in tensors.items():
        groups.setdefault(id(array), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _overlapping(tensors: Mapping[str, Array]) -> list[str]:
    spans = []
    for array in {id(array): array for array in tensors.values()}.values():
        if array.size:
            low, high = np.lib.array_utils.byte_bounds(array)
            spans.append((low, high, id(array)))
    spans.sort()
    hit: set[int] = set()
    last, owner = 0, 0
    for low, high, mine in spans:
        if low < last:
            hit |= {mine, owner}
        if high > last:
            last, owner = high, mine
    return [name for name, array in tensors.items() if id(array) in hit]


# ---- pickles, protocol 2, written by hand: the names in them need not be importable here
_STORAGE_CLASS = {
    "float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "int64": "LongStorage",
    "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage", "uint8": "ByteStorage",
    "bool": "BoolStorage", "complex64": "ComplexFloatStorage", "complex128": "ComplexDoubleStorage",
}  # fmt: skip


def _dump(value: Any) -> bytes:
    """None, bool, int, str, tuple, list, dict and Global, as the instructions of a pickle."""
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        if -(1 << 31) <= value < 1 << 31:
            return b"J" + struct.pack("<i", value)
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(text)) + text
    if isinstance(value, Global):
        module, _, name = value.path.rpartition(".")
        return f"c{module}\n{name}\n".encode()
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_dump, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(_dump, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_dump(key) + _dump(item) for key, item in value.items()) + b"u"
    raise TypeError(type(value))


def _pickle(value: Any) -> bytes:
    return b"\x80\x02" + _dump(value) + b"."


_ORDERED = b"ccollections\nOrderedDict\n)R"


def _state_dict(tensors: Mapping[str, Array], versions: Mapping[str, int], legacy: bool) -> tuple[bytes, list[Array]]:
    """The pickle of a state dict, and the arrays of its storages, of which number i has the key str(i).

    Dtypes without a storage class of their own (uint16) refer to an untyped storage, by its bytes.
    """
    numbers: dict[int, int] = {}
    arrays: list[Array] = []
    parts = [b"\x80\x02", _ORDERED, b"("]
    for name, array in tensors.items():
        number = numbers.setdefault(id(array), len(arrays))
        if number == len(arrays):
            arrays.append(array)
        dtype = str(array.dtype)
        known = _STORAGE_CLASS.get(dtype)
        storage = Global(f"torch.{known}" if known else "torch.storage.UntypedStorage")
        count = array.size if known else array.nbytes
        key = ("storage", storage, str(number), "cpu", count, *((None,) if legacy else ()))
        stride = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
        function = "torch._utils._rebuild_tensor_v2" if known else "torch._utils._rebuild_tensor_v3"
        parts += [
            _dump(name), _dump(Global(function)), b"(", _dump(key), b"Q", _dump(0), _dump(array.shape),
            _dump(stride), _dump(False), _ORDERED, b"" if known else _dump(Global(f"torch.{dtype}")), b"tR",
        ]  # fmt: skip
    parts.append(b"u")
    if versions:
        layout = {module: {"version": version} for module, version in versions.items()}
        parts += [_dump({"_metadata": layout}), b"b"]
    return b"".join([*parts, b"."]), arrays


def _write_legacy(file: IO[bytes], tensors: Mapping[str, Array], versions: Mapping[str, int]) -> None:
    pickled, arrays = _state_dict(tensors, versions, legacy=True)
    sizes = {"short": 2, "int": 4, "long": 4}
    file.write(LEGACY_MAGIC)
    file.write(_pickle(LEGACY_PROTOCOL))
    file.write(_pickle({"protocol_version": LEGACY_PROTOCOL, "little_endian": True, "type_sizes": sizes}))
    file.write(pickled)
    file.write(_pickle([str(number) for number in range(len(arrays))]))
    for array in arrays:
        file.write(struct.pack("<q", array.size))
        _bytes(array).tofile(file)


def _write_zip(file: IO[bytes], tensors: Mapping[str, Array], versions: Mapping[str, int]) -> None:
    pickled, arrays = _state_dict(tensors, versions, legacy=False)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:

        def record(name: str, content: Any, size: int) -> None:
            info = zipfile.ZipInfo(f"archive/{name}", (1980, 1, 1, 0, 0, 0))
            info.file_size = size
            large = size >= zipfile.ZIP64_LIMIT
            # torch maps storages from the file, and pads them to 64 bytes by an extra field named "FB".
            start = file.tell() + 30 + len(info.filename) + (20 if large else 0) + 4
            fill = -start % 64
            info.extra = struct.pack("<2sH", b"FB", fill) + b"Z" * fill
            with archive.open(info, "w", force_zip64=large) as target:
                target.write(content)

        record("data.pkl", pickled, len(pickled))
        record("byteorder", b"little", 6)
        for number, array in enumerate(arrays):
            record(f"data/{number}", _bytes(array).data, array.nbytes)
        record("version", b"3\n", 2)


_SAFE_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16",
    "int8": "I8", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64", "bool": "BOOL",
    "complex64": "C64",
}  # fmt: skip


def _write_safetensors(file: IO[bytes], tensors: Mapping[str, Array], versions: Mapping[str, int]) -> None:
    # Widest elements first, as its own writer does: then every tensor is aligned.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in order:
        array = tensors[name]
        header[name] = {
            "dtype": _SAFE_NAMES[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for name in order:
        _bytes(tensors[name]).tofile(file)


_Writer = Callable[[IO[bytes], Mapping[str, Array], Mapping[str, int]], None]
_WRITERS: dict[str, _Writer] = {"legacy": _write_legacy, "zip": _write_zip, "safetensors": _write_safetensors}
