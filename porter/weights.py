# SPDX-License-Identifier: Apache-2.0
"""Files that hold tensors, read without torch and without running anything that is in them.

Each ``read_*`` function turns a file into a tree of plain Python data with ``Tensor`` leaves. A Tensor refers
to a Storage, whose bytes are mapped from the file (zip, safetensors, legacy, tar) or inflated. Every size that
a file declares is checked against the bytes that it has before anything is allocated.

The formats, from the sources of their writers: torch/serialization.py (zip: ``_save``; legacy:
``_legacy_save``; tar: ``_legacy_load.legacy_load``), caffe2/serialize/inline_container.cc (the zip's records),
torch/_utils.py (the ``_rebuild_*`` calls), the safetensors README, numpy/lib/format.py.
"""

from __future__ import annotations

import io
import json
import math
import mmap
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from porter.errors import PorterError
from porter.pickled import MAX_NAME, Builder, Damaged, Excessive, Global, Ordered, Reader, Stub, danger

Array = npt.NDArray[Any]

#: The first bytes of torch's legacy container: the pickle (protocol 2) of the magic number
#: 0x1950a86a20f9469cfc6c (torch/serialization.py, MAGIC_NUMBER).
LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e"
LEGACY_PROTOCOL = 1001

_MAX_NDIM = 32
#: What the tensors of a file may unpack to, beyond a multiple of its size (a small file of zeros packs well).
_FREE_BYTES = 256 << 20
_MAX_RATIO = 100
_MAX_PICKLE = 1 << 30
_MAX_HEADER = 100_000_000  # safetensors' own limit

# torch's name → bytes of one element, and the numpy dtype of the same bits where there is one
_DTYPES: dict[str, tuple[int, str | None]] = {
    "float64": (8, "f8"), "float32": (4, "f4"), "float16": (2, "f2"), "bfloat16": (2, None),
    "int64": (8, "i8"), "int32": (4, "i4"), "int16": (2, "i2"), "int8": (1, "i1"), "uint8": (1, "u1"),
    "uint16": (2, "u2"), "uint32": (4, "u4"), "uint64": (8, "u8"), "bool": (1, "?"),
    "complex32": (4, None), "complex64": (8, "c8"), "complex128": (16, "c16"),
    "float8_e4m3fn": (1, None), "float8_e4m3fnuz": (1, None), "float8_e5m2": (1, None),
    "float8_e5m2fnuz": (1, None), "float8_e8m0fnu": (1, None),
    "qint8": (1, "i1"), "quint8": (1, "u1"), "qint32": (4, "i4"),
}  # fmt: skip
_ALIASES = {
    "float": "float32", "double": "float64", "half": "float16", "long": "int64", "int": "int32",
    "short": "int16", "cfloat": "complex64", "cdouble": "complex128", "chalf": "complex32",
}  # fmt: skip
_STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16",
    "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "QInt8Storage": "qint8", "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32", "QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4",
}  # fmt: skip
# dtypes whose elements cannot be told apart, and the bytes of one entry of their storages
_OPAQUE = {"quint4x2": 1, "quint2x4": 1}
_SAFE_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "BOOL": "bool", "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip


# ------------------------------------------------------------------------------------------ the leaves
@dataclass(eq=False)
class Storage:
    """A run of bytes in a file that tensors are views of."""

    name: str
    raw: Callable[[], Array]
    """The bytes, uint8[n], read-only."""
    big_endian: bool = False


@dataclass(eq=False)
class Tensor:
    """A strided view of a storage. ``offset`` and ``stride`` count elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    quantizer: tuple[Any, ...] | None = None


@dataclass(eq=False)
class Sparse:
    """A COO tensor: indices int64[ndim, nnz], values [nnz, ...]."""

    indices: Tensor
    values: Tensor
    shape: tuple[int, ...]


@dataclass(eq=False)
class Absent:
    """A tensor that the file names and that cannot be read, and why."""

    why: str


@dataclass(eq=False)
class NumpyDType:
    """numpy.dtype in a pickle: made by a call, completed by a state."""

    code: str
    state: Any = None

    def set_state(self, state: Any) -> None:
        self.state = state

    def resolve(self) -> np.dtype[Any]:
        order = self.state[1] if isinstance(self.state, tuple) and len(self.state) > 1 else "|"
        if not isinstance(order, str) or order not in ("<", ">", "|", "="):
            raise Damaged("a numpy dtype has no such byte order")
        if len(self.code) > 4 or self.code[:1] not in "biufc?":
            raise Damaged(f"numpy arrays of dtype {self.code[:20]!r} hold no numbers")
        try:
            return np.dtype(("" if order == "|" else order) + self.code)
        except TypeError as error:
            raise Damaged(f"there is no numpy dtype {self.code[:20]!r}") from error


@dataclass(eq=False)
class NumpyArray:
    """numpy.ndarray in a pickle: made empty by a call, completed by a state."""

    state: Any = None

    def set_state(self, state: Any) -> None:
        self.state = state


@dataclass
class Content:
    """What a file holds: ``value`` is a tree of dict, list, tuple, Stub and the leaves above."""

    value: Any
    format: str
    globals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


# ------------------------------------------------------------------------------------- errors, as codes
@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a damaged or hostile file makes a decoder raise into a PorterError.

    Raises:
        PorterError: PT502 (damaged), PT514 (declares more than it holds), PT501 (cannot be read).
    """
    fix = "Fetch the file again and compare its size and SHA-256 with the publisher's."
    try:
        yield
    except PorterError:
        raise
    except Excessive as error:
        raise PorterError("PT514", f"{path}: {error}", where=str(path), fix=fix) from error
    except MemoryError as error:
        raise PorterError("PT514", f"{path} needs more memory than there is", where=str(path)) from error
    except OSError as error:
        raise PorterError("PT501", f"{path} cannot be read: {error}", where=str(path)) from error
    except (
        Damaged, ValueError, TypeError, KeyError, IndexError, AttributeError, struct.error, OverflowError,
        RecursionError, EOFError, NotImplementedError, zlib.error, zipfile.BadZipFile, tarfile.TarError,
    ) as error:  # fmt: skip
        size = path.stat().st_size if path.exists() else 0
        detail = str(error) if isinstance(error, Damaged) else f"it cannot be decoded ({error or type(error)})"
        raise PorterError("PT502", f"{path}: {detail}", where=f"{path}, {size} bytes", fix=fix) from error


def map_file(path: Path) -> mmap.mmap:
    """The whole file, mapped read-only."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise Damaged("the file is empty")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _view(data: mmap.mmap, offset: int, count: int) -> Array:
    if offset < 0 or count < 0 or offset + count > len(data):
        raise Damaged(f"{count} bytes are stated at offset {offset}, and the file ends before")
    return np.frombuffer(data, np.uint8, count, offset)


def _whole(*values: Any) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values)


def _sizes(value: Any, what: str) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or not _whole(*value) or len(value) > _MAX_NDIM:
        raise Damaged(f"a tensor's {what} is not a short list of sizes")
    return tuple(value)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


# ------------------------------------------------------------------------- the calls that tensors need
def _text(value: Any) -> str:
    if isinstance(value, int):  # the keys of torch before 0.2
        return str(value) if value.bit_length() < 128 else "?"
    if not isinstance(value, (str, bytes)) or len(value) > MAX_NAME:
        raise Damaged("a name in the pickle is not a short text")
    return value.decode("latin-1") if isinstance(value, bytes) else value


def dtype_of(value: Any) -> str:
    """torch's name of the dtype of a storage class or of a ``torch.float32``-like global."""
    if not isinstance(value, Global):
        raise Damaged("a tensor has no dtype")
    name = value.path.rpartition(".")[2]
    known = _STORAGES.get(name) or _ALIASES.get(name, name)
    return "uint8" if name in ("UntypedStorage", "_UntypedStorage") else known


def _rebuild_tensor(args: tuple[Any, ...]) -> Any:
    storage, offset, shape, stride = args[:4]
    return _tensor(storage, offset, shape, stride)


def _rebuild_tensor_v3(args: tuple[Any, ...]) -> Any:
    storage, offset, shape, stride, _, _, dtype = args[:7]
    return _tensor(storage, offset, shape, stride, dtype_of(dtype))


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, dtype: str | None = None) -> Any:
    if isinstance(storage, Absent):
        return storage
    if not isinstance(storage, TypedStorage) or not _whole(offset):
        raise Damaged("a tensor has no storage or no offset")
    shape, stride = _sizes(shape, "shape"), _sizes(stride, "stride")
    if len(shape) != len(stride):
        raise Damaged("a tensor has not as many strides as axes")
    dtype = dtype or storage.dtype
    if dtype not in _DTYPES:
        return Absent(f"its dtype {dtype} has no equal in numpy")
    return Tensor(storage.storage, dtype, offset, shape, stride)


def _rebuild_qtensor(args: tuple[Any, ...]) -> Any:
    made = _rebuild_tensor(args)
    if isinstance(made, Tensor):
        if not isinstance(args[4], tuple) or not isinstance(args[4][0], Global):
            raise Damaged("a quantized tensor has no quantizer")
        made.quantizer = args[4]
    return made


def _rebuild_sparse(args: tuple[Any, ...]) -> Any:
    layout, data = args
    name = layout.path if isinstance(layout, Global) else _text(layout)
    if name != "torch.sparse_coo":
        return Absent(f"its layout {name[:40]} is not read")
    indices, values, shape = data[:3]
    if not isinstance(indices, Tensor) or not isinstance(values, Tensor):
        raise Damaged("a sparse tensor lacks its indices or values")
    return Sparse(indices, values, _sizes(shape, "shape"))


def _first(args: tuple[Any, ...]) -> Any:
    return args[0]


def _from_type(builders: dict[str, Builder]) -> Builder:
    def build(args: tuple[Any, ...]) -> Any:
        function, _, inner = args[:3]
        if not isinstance(function, Global) or not isinstance(inner, tuple):
            raise Damaged("a tensor subclass does not say how it is made")
        make = builders.get(function.path)
        return Stub(function.path, inner) if make is None else make(inner)

    return build


def _ordered(args: tuple[Any, ...]) -> Any:
    made = Ordered()
    for pair in args[0] if args and isinstance(args[0], (list, tuple)) else ():
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise Damaged("an OrderedDict is not made of pairs")
        made[_text(pair[0])] = pair[1]
    return made


def _latin(args: tuple[Any, ...]) -> Any:
    text, encoding = args
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Damaged("bytes in the pickle have another encoding than latin-1")
    return text.encode("latin-1")


def _reconstruct(args: tuple[Any, ...]) -> Any:
    return Stub(args[0].path, args) if isinstance(args[0], Global) else Stub("copyreg._reconstructor", args)


def _frombuffer(args: tuple[Any, ...]) -> Any:
    data, dtype, shape, order = args
    return NumpyArray((1, shape, dtype, order == "F", data))


def _scalar(args: tuple[Any, ...]) -> Any:
    made = numpy_array(NumpyArray((1, (), args[0], False, args[1])))
    return made.item() if isinstance(made, np.ndarray) else made


def _bytes_builder(args: tuple[Any, ...]) -> Any:
    value = args[0] if args else b""
    if isinstance(value, str):
        return value.encode("latin-1", "replace")
    return value if isinstance(value, bytes) else b""


def _dict_builder(args: tuple[Any, ...]) -> Any:
    return Ordered(args[0]) if args and isinstance(args[0], dict) else Ordered()


def _list_builder(args: tuple[Any, ...]) -> Any:
    return list(args[0]) if args and isinstance(args[0], (list, tuple, set, frozenset)) else []


def _set_builder(args: tuple[Any, ...]) -> Any:
    return {item for item in _list_builder(args) if isinstance(item, (str, bytes))}


def _complex(args: tuple[Any, ...]) -> Any:
    return complex(*(float(part) for part in args[:2]))


def _builders() -> dict[str, Builder]:
    table: dict[str, Builder] = {
        "collections.OrderedDict": _ordered,
        "collections.defaultdict": lambda args: Ordered(),
        "collections.Counter": _dict_builder,
        "torch._utils._rebuild_tensor": _rebuild_tensor,
        "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
        "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
        "torch._utils._rebuild_parameter": _first,
        "torch._utils._rebuild_parameter_with_state": _first,
        "torch.nn.parameter.Parameter": _first,
        "torch.nn.parameter.Buffer": _first,
        "torch._utils._rebuild_qtensor": _rebuild_qtensor,
        "torch._utils._rebuild_sparse_tensor": _rebuild_sparse,
        "torch._utils._rebuild_meta_tensor_no_storage": lambda args: Absent("it was saved without its data"),
        "torch._utils._rebuild_device_tensor_from_numpy": _first,
        "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
        "torch._utils._rebuild_xla_tensor": _first,
        "torch.serialization._get_layout": lambda args: _text(args[0]),
        "torch.Size": lambda args: tuple(args[0]) if args and isinstance(args[0], (tuple, list)) else (),
        "torch.device": lambda args: ":".join(_text(part) for part in args),
        "numpy.ndarray": lambda args: NumpyArray(),
        "numpy.dtype": lambda args: NumpyDType(_text(args[0])),
        "_codecs.encode": _latin,
        "copyreg._reconstructor": _reconstruct,
        "copy_reg._reconstructor": _reconstruct,
    }
    for module in ("numpy.core", "numpy._core"):
        table[f"{module}.multiarray._reconstruct"] = lambda args: NumpyArray()
        table[f"{module}.multiarray.scalar"] = _scalar
        table[f"{module}.numeric._frombuffer"] = _frombuffer
    for module in ("builtins", "__builtin__"):
        table[f"{module}.set"] = _set_builder
        table[f"{module}.dict"] = _dict_builder
        table[f"{module}.list"] = _list_builder
        table[f"{module}.tuple"] = lambda args: tuple(_list_builder(args))
        table[f"{module}.bytes"] = _bytes_builder
        table[f"{module}.bytearray"] = _bytes_builder
        table[f"{module}.complex"] = _complex
    for name in ("torch._tensor._rebuild_from_type", "torch._tensor._rebuild_from_type_v2"):
        table[name] = _from_type(table)
    return table


_BUILDERS = _builders()


@dataclass(eq=False)
class TypedStorage:
    """What a persistent id stands for: a storage and the dtype that its class says."""

    storage: Storage
    dtype: str


def numpy_array(box: NumpyArray) -> Array | Absent:
    """The array that a pickle describes; Absent when its elements are objects or text.

    Raises:
        Damaged: its data has not the size of its shape.
    """
    if not isinstance(box.state, tuple) or len(box.state) < 5:
        return Absent("it is an empty numpy array")
    _, shape, dtype, fortran, data = box.state[:5]
    shape = _sizes(shape, "shape")
    if not isinstance(dtype, NumpyDType):
        raise Damaged("a numpy array has no dtype")
    if isinstance(data, list) or dtype.code[:1] in ("O", "U", "S", "V", "M", "m", "T"):
        return Absent("it is a numpy array of objects or text")
    if isinstance(data, str):
        data = data.encode("latin-1")
    kind = dtype.resolve()
    if not isinstance(data, (bytes, bytearray)) or len(data) != math.prod(shape) * kind.itemsize:
        raise Excessive(f"a numpy array of shape {list(shape)} and dtype {kind} has not as many bytes")
    made = np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")
    return made if kind.isnative else made.astype(kind.newbyteorder("="))


def _reader(
    data: bytes | mmap.mmap,
    where: str,
    strict: bool,
    persistent: Callable[[Any], Any] | None,
    nested: bool = False,
) -> Reader:
    def refuse(name: str) -> None:
        if strict and danger(name):
            raise PorterError(
                "PT504",
                f"loading this file with pickle or torch.load would call {name[:200]!r}",
                where=where,
                fix="Don't load it. Get the weights from a source that you trust. (Nothing in it was run.)",
            )

    builders = dict(_BUILDERS)
    if not nested:

        def from_bytes(args: tuple[Any, ...]) -> Any:
            # A tensor that went through plain pickle: its storage is a legacy file in a byte string.
            if not isinstance(args[0], bytes) or not args[0].startswith(LEGACY_MAGIC):
                raise Damaged("a storage in the pickle is not in the legacy format")
            return _legacy(args[0], where, strict, nested=True).value

        builders["torch.storage._load_from_bytes"] = from_bytes
    return Reader(data, builders, persistent, refuse)


# ----------------------------------------------------------------------------------------------- legacy
def read_legacy(path: Path, strict: bool) -> Content:
    """torch.save(..., _use_new_zipfile_serialization=False), and every torch.save before 1.6.

    Three pickles (magic number, protocol 1001, system information), the object, the list of storage keys, then
    for each key an int64 number of elements and the elements.
    """
    return _legacy(map_file(path), str(path), strict)


def _legacy(data: bytes | mmap.mmap, where: str, strict: bool, nested: bool = False) -> Content:
    sources: list[str] = []
    roots: dict[str, tuple[TypedStorage, int]] = {}
    found: dict[str, Array] = {}
    views: dict[tuple[str, int, int], Storage] = {}
    big_endian = False

    def persistent(key: Any) -> Any:
        if not isinstance(key, tuple) or not key:
            raise Damaged("a persistent id is not a tuple")
        kind = _text(key[0])
        if kind == "module" and len(key) >= 2:
            if isinstance(key[1], Global):
                sources.append(key[1].path)
            return key[1]
        if kind != "storage" or len(key) < 5 or not _whole(key[4]):
            raise Damaged("a persistent id is neither a storage nor a module")
        dtype, root, count = dtype_of(key[1]), _text(key[2]), key[4]
        if root not in roots:
            storage = Storage(f"storage {root}", lambda: found[root], big_endian)
            roots[root] = TypedStorage(storage, dtype), count
        made = roots[root][0]
        if dtype not in _DTYPES:
            return Absent(f"its dtype {dtype} has no equal in numpy")
        view = key[5] if len(key) > 5 else None
        if view is None:
            return TypedStorage(made.storage, dtype)
        _, offset, size = view
        if not _whole(offset, size):
            raise Damaged("a storage's view has no size")
        width = _DTYPES[dtype][0]

        def part() -> Array:
            if (offset + size) * width > found[root].size:
                raise Excessive(f"a view lies outside of its storage {root}")
            return found[root][offset * width : (offset + size) * width]

        span = root, offset * width, size * width
        if span not in views:
            views[span] = Storage(f"view of storage {root}", part, big_endian)
        return TypedStorage(views[span], dtype)

    reader = _reader(data, where, strict, persistent, nested)
    magic, at = reader.load(0)
    protocol, at = reader.load(at)
    system, at = reader.load(at)
    if magic != 0x1950A86A20F9469CFC6C or protocol != LEGACY_PROTOCOL or not isinstance(system, dict):
        raise Damaged("the legacy container's head is not the one that torch writes")
    big_endian = system.get("little_endian", True) is False
    value, at = reader.load(at)
    keys, at = reader.load(at)
    if not isinstance(keys, list):
        raise Damaged("the list of storages is missing")
    for name in map(_text, keys):
        if name not in roots:
            raise Damaged(f"storage {name[:40]} is listed and not used")
        typed, count = roots[name]
        width = _DTYPES[typed.dtype][0] if typed.dtype in _DTYPES else _OPAQUE.get(typed.dtype, 0)
        if not width:
            raise Damaged(f"the elements of {typed.dtype[:40]} have no known size")
        if at + 8 > len(data):
            raise Damaged(f"the file ends before storage {name[:40]}, after {len(found)} of {len(keys)}")
        (stated,) = struct.unpack(">q" if big_endian else "<q", data[at : at + 8])
        if stated != count:
            raise Damaged(f"storage {name[:40]} has {stated} elements in one place and {count} in another")
        at += 8
        if at + count * width > len(data):
            raise Damaged(f"the file ends inside storage {name[:40]}, {len(found)} of {len(keys)} are whole")
        found[name] = np.frombuffer(data, np.uint8, count * width, at)
        at += count * width
    missing = sorted(set(roots) - set(found))
    if missing:
        raise Damaged(f"storage {missing[0][:40]} is used and not in the file")
    content = Content(value, "legacy", list(reader.globals))
    if sources:
        content.notes.append(f"it holds source code of {len(set(sources))} classes, which was not run")
    return content


def _fixed(piece: Array) -> Callable[[], Array]:
    return lambda: piece


def read_pickle(path: Path, strict: bool) -> Content:
    """A plain pickle (not torch.save): dictionaries of numpy arrays, or tensors saved by ``pickle.dump``."""
    reader = _reader(map_file(path), str(path), strict, None)
    value, _ = reader.load(0)
    return Content(value, "pickle", list(reader.globals))


# -------------------------------------------------------------------------------------------------- tar
def read_tar(path: Path, strict: bool) -> Content:
    """torch.save before 0.2: a tar of ``storages``, ``tensors`` and ``pickle``."""
    data = map_file(path)
    spans: dict[str, tuple[int, int]] = {}
    with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if member.isreg() and not member.issparse():
                _view(data, member.offset_data, member.size)
                spans[member.name.removeprefix("./")] = member.offset_data, member.offset_data + member.size
    if not {"storages", "tensors", "pickle"} <= set(spans):
        raise Damaged("the tar lacks 'storages', 'tensors' or 'pickle'")
    objects: dict[str, Any] = {}

    def persistent(key: Any) -> Any:
        if isinstance(key, tuple) and key:
            return key[0]
        if _text(key) not in objects:
            raise Damaged("the pickle refers to a tensor that the tar does not have")
        return objects[_text(key)]

    reader = _reader(data, str(path), strict, persistent)
    at, end = spans["storages"]
    count, at = reader.load(at, end)
    for _ in range(_count(count, end - at)):
        (key, _, kind), at = reader.load(at, end)
        dtype = dtype_of(kind)
        if dtype not in _DTYPES:
            raise Damaged(f"the elements of {dtype[:40]} have no known size")
        (size,) = struct.unpack("<q", data[at : min(at + 8, end)])
        size *= _DTYPES[dtype][0]
        if not 0 <= size <= end - at - 8:
            raise Damaged(f"storage {_text(key)[:40]} ends outside of the tar's record")
        piece = _view(data, at + 8, size)
        objects[_text(key)] = TypedStorage(Storage(f"storage {_text(key)}", _fixed(piece)), dtype)
        at += 8 + size
    views, _ = reader.load(at, end)
    for target, root, offset, size in views:
        whole = objects[_text(root)]
        width = _DTYPES[whole.dtype][0]
        if not _whole(offset, size) or (offset + size) * width > whole.storage.raw().size:
            raise Excessive("a storage's view lies outside of it")
        piece = whole.storage.raw()[offset * width : (offset + size) * width]
        objects[_text(target)] = TypedStorage(Storage(whole.storage.name, _fixed(piece)), whole.dtype)
    at, end = spans["tensors"]
    count, at = reader.load(at, end)
    for _ in range(_count(count, end - at)):
        (key, storage_key, _), at = reader.load(at, end)
        (ndim,) = struct.unpack("<i", data[at : min(at + 4, end)])
        if not 0 <= ndim <= _MAX_NDIM:
            raise Damaged("a tensor has more axes than any tensor")
        numbers = struct.unpack(f"<{2 * ndim + 1}q", data[at + 8 : min(at + 16 + 16 * ndim, end)])
        shape, stride = numbers[:ndim], numbers[ndim:-1]
        objects[_text(key)] = _tensor(objects[_text(storage_key)], numbers[-1], shape, stride)
        at += 16 + 16 * ndim
    value, _ = reader.load(*spans["pickle"])
    return Content(value, "tar", list(reader.globals))


def _count(value: Any, room: int) -> int:
    if not _whole(value) or value > room:
        raise Damaged("the tar states more entries than it has room for")
    return int(value)


# -------------------------------------------------------------------------------------------------- zip
class Archive:
    """A zip file: records by name, mapped where they are stored, inflated with a bound where they are packed.

    Raises (also from the methods):
        Damaged: a record or the directory cannot be decoded, or a checksum differs.
        Excessive: records overlap, or unpack to far more than the file has.
    """

    def __init__(self, path: Path) -> None:
        self.data = map_file(path)
        self.unchecked = False
        self._cache: dict[str, Array] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                infos = archive.infolist()
        except zipfile.BadZipFile as error:
            raise Damaged(f"it is a zip archive whose end is missing or damaged ({error})") from error
        self.infos = {info.filename: info for info in infos}
        if len(self.infos) != len(infos):
            raise Damaged("two records of the zip have the same name")
        # A bomb lists the same packed bytes many times.
        packed = sum(info.compress_size for info in infos)
        unpacked = sum(info.file_size for info in infos)
        if packed > len(self.data) or unpacked > _FREE_BYTES + _MAX_RATIO * len(self.data):
            size = len(self.data)
            raise Excessive(f"its {len(infos)} records unpack to {unpacked} bytes, and the file has {size}")

    def root(self, record: str) -> str | None:
        """The folder (with its slash) in which ``record`` is; None when no folder or several have it."""
        found = [name.removesuffix(record) for name in self.infos if name.endswith(record)]
        found = [name for name in found if not name or name.endswith("/")]
        found.sort(key=lambda name: name.count("/"))
        if not found or (len(found) > 1 and found[0].count("/") == found[1].count("/")):
            return None
        return found[0]

    def raw(self, name: str) -> Array:
        """The bytes of a record, uint8[n], read-only."""
        if name not in self._cache:
            self._cache[name] = self._load(name)
        return self._cache[name]

    def _load(self, name: str) -> Array:
        info = self.infos.get(name)
        if info is None:
            raise Damaged(f"the zip has no record {name[:80]!r}")
        start = info.header_offset
        head = self.data[start : start + 30] if start >= 0 else b""
        if len(head) < 30 or head[:4] != b"PK\x03\x04":
            raise Damaged(f"record {name[:80]!r} does not begin where the zip's directory says")
        if info.flag_bits & 1:
            raise Damaged(f"record {name[:80]!r} is encrypted")
        start += 30 + sum(struct.unpack("<HH", head[26:30]))
        packed = _view(self.data, start, info.compress_size)
        if info.compress_type == zipfile.ZIP_STORED:
            if info.compress_size != info.file_size:
                raise Damaged(f"record {name[:80]!r} has two sizes")
            content = packed
        elif info.compress_type == zipfile.ZIP_DEFLATED:
            inflate = zlib.decompressobj(-15)
            unpacked = inflate.decompress(packed.tobytes(), info.file_size + 1)
            if len(unpacked) != info.file_size:
                raise Excessive(f"record {name[:80]!r} does not unpack to the {info.file_size} bytes stated")
            content = np.frombuffer(unpacked, np.uint8)
        else:
            raise Damaged(f"record {name[:80]!r} is packed by a method that torch does not use")
        # torch.serialization.set_crc32_options(False) writes zeros.
        if info.CRC == 0 and info.file_size:
            self.unchecked = True
        elif zlib.crc32(content.data) != info.CRC:
            raise Damaged(f"record {name[:80]!r} has changed: its CRC-32 differs")
        return content

    def read(self, name: str) -> bytes:
        """A small record."""
        info = self.infos.get(name)
        if info is not None and info.file_size > _MAX_PICKLE:
            raise Excessive(f"record {name[:80]!r} states {info.file_size} bytes")
        return self.raw(name).tobytes()


def read_zip(path: Path, strict: bool, check: bool = True) -> Content:
    """torch.save since 1.6, and TorchScript: a zip of ``data.pkl`` and a record for each storage.

    With ``check`` the checksum of every storage is verified now, else when it is first used.
    """
    archive = Archive(path)
    root = archive.root("data.pkl")
    if root is None:
        raise Damaged("the zip has no data.pkl, or several")
    notes: list[str] = []
    order = archive.read(f"{root}byteorder") if f"{root}byteorder" in archive.infos else b"little"
    if order not in (b"little", b"big"):
        raise Damaged("the record 'byteorder' is neither little nor big")
    storages: dict[str, Storage] = {}

    def persistent(key: Any) -> Any:
        if not isinstance(key, tuple) or len(key) < 5 or key[0] != "storage" or not _whole(key[4]):
            raise Damaged("a persistent id is not a storage")
        dtype, name, count = dtype_of(key[1]), _text(key[2]), key[4]
        if dtype not in _DTYPES:
            return Absent(f"its dtype {dtype} has no equal in numpy")
        record = f"{root}data/{name}"
        info = archive.infos.get(record)
        if info is None:
            raise Damaged(f"the zip has no record {record[:80]!r} for a storage")
        if count * _DTYPES[dtype][0] > info.file_size:
            raise Excessive(f"storage {name[:40]} states {count} x {dtype} and has {info.file_size} bytes")
        storage = storages.get(name)
        if storage is None:
            storage = storages[name] = Storage(record, lambda: archive.raw(record), order == b"big")
        return TypedStorage(storage, dtype)

    reader = _reader(archive.read(f"{root}data.pkl"), f"{path}: {root}data.pkl", strict, persistent)
    value, _ = reader.load()
    script = any(name.startswith(f"{root}code/") or name == f"{root}constants.pkl" for name in archive.infos)
    for storage in storages.values() if check else ():
        storage.raw()
    if archive.unchecked:
        notes.append("it was saved without checksums: a changed byte cannot be noticed")
    return Content(value, "torchscript" if script else "zip", list(reader.globals), notes)


# -------------------------------------------------------------------------------------------------- npz
def read_npz(path: Path) -> Content:
    """numpy.savez and savez_compressed: a zip of .npy records."""
    archive = Archive(path)
    value: dict[str, Any] = {}
    for name in archive.infos:
        if not name.endswith(".npy"):
            continue
        content = archive.raw(name)
        value[name.removesuffix(".npy")] = _npy(content)
    return Content(value, "npz", notes=["it has no checksums"] if archive.unchecked else [])


def _npy(content: Array) -> Array | Absent:
    head = io.BytesIO(content[: 1 << 16].tobytes())
    version = np.lib.format.read_magic(head)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(head)
    else:
        return Absent("its .npy version is for text")
    shape = _sizes(shape, "shape")
    if dtype.kind not in "biufc" or dtype.itemsize not in (1, 2, 4, 8, 16) or dtype.subdtype or dtype.names:
        return Absent(f"its dtype {dtype} is none that torch has")
    data = content[head.tell() :]
    if math.prod(shape) * dtype.itemsize != data.size:
        raise Excessive(f"an array of shape {list(shape)} and dtype {dtype} has {data.size} bytes")
    made = data.copy().view(dtype).reshape(shape, order="F" if fortran else "C")
    return made if dtype.isnative else made.astype(dtype.newbyteorder("="))


# ------------------------------------------------------------------------------------------ safetensors
def read_safetensors(path: Path) -> Content:
    """A JSON header (its length as uint64 before it) with dtype, shape and byte offsets, then the data."""
    data = map_file(path)
    if len(data) < 8:
        raise Damaged("it is shorter than a header's length")
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(_MAX_HEADER, len(data) - 8):
        raise Damaged(f"its header states {length} bytes, and the file has {len(data)}")
    header = json.loads(data[8 : 8 + length].decode("utf-8"))
    if not isinstance(header, dict):
        raise Damaged("its header is not an object")
    start, value = 8 + length, dict[str, Any]()
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        dtype, shape = _SAFE_DTYPES.get(entry["dtype"]), _sizes(entry["shape"], "shape")
        if not _whole(begin, end) or begin > end or start + end > len(data):
            raise Damaged(f"tensor {name[:80]!r} ends outside of the file")
        if dtype is None:
            value[name] = Absent(f"its dtype {str(entry['dtype'])[:20]} has no equal in numpy")
            continue
        if math.prod(shape) * _DTYPES[dtype][0] != end - begin:
            raise Excessive(f"tensor {name[:80]!r} is {dtype}{list(shape)} and has {end - begin} bytes")
        piece = _view(data, start + begin, end - begin)
        value[name] = Tensor(Storage(name, _fixed(piece)), dtype, 0, shape, _contiguous(shape))
    return Content(value, "safetensors")


# ------------------------------------------------------------------------------------- leaves → arrays
class Arrays:
    """Turns leaves into read-only numpy arrays; equal views of one storage become the same array object, so
    that tied weights can be told by identity."""

    def __init__(self, file_size: int) -> None:
        self._budget = _FREE_BYTES + 16 * file_size
        self._bases: dict[tuple[int, str], Array] = {}
        self._made: dict[tuple[int, str, int, tuple[int, ...], tuple[int, ...], int], Array] = {}
        self._boxes: dict[int, Array | Absent] = {}
        self._keep: list[Any] = []

    def dtype(self, leaf: Any) -> str:
        """torch's name of the dtype that the file has for a leaf."""
        if isinstance(leaf, Sparse):
            leaf = leaf.values
        if isinstance(leaf, Tensor):
            return leaf.dtype
        return str(leaf.dtype) if isinstance(leaf, np.ndarray) else "unknown"

    def array(self, leaf: Any) -> Array | Absent:
        """A leaf as an array.

        Raises:
            Excessive: the shape needs bytes that the storage does not have, or all views together are many
                times as large as the file.
        """
        if isinstance(leaf, NumpyArray):
            if id(leaf) not in self._boxes:
                self._boxes[id(leaf)] = box = numpy_array(leaf)
                self._spend(box.nbytes if isinstance(box, np.ndarray) else 0)
                self._keep.append(leaf)
            return self._boxes[id(leaf)]
        if isinstance(leaf, Sparse):
            return self._dense(leaf)
        if not isinstance(leaf, Tensor):
            return leaf if isinstance(leaf, (np.ndarray, Absent)) else Absent("it is not a tensor")
        quantizer = 0 if leaf.quantizer is None else id(leaf.quantizer)
        key = id(leaf.storage), leaf.dtype, leaf.offset, leaf.shape, leaf.stride, quantizer
        made = self._made.get(key)
        if made is None:
            view = self._strided(leaf)
            made = view if leaf.quantizer is None else self._dequantized(view, leaf.quantizer)
            made.flags.writeable = False
            self._made[key] = made
            self._keep.append((leaf.storage, leaf.quantizer))  # ids in the keys stay theirs
        return made

    def _spend(self, count: int) -> None:
        self._budget -= count
        if self._budget < 0:
            raise Excessive("its tensors, expanded, are many times as large as the file")

    def _base(self, storage: Storage, dtype: str) -> Array:
        key = id(storage), dtype
        if key not in self._bases:
            width = _DTYPES[dtype][0]
            raw = storage.raw()
            if raw.ctypes.data % 16:  # the legacy format has them anywhere, and not every consumer takes that
                raw = raw.copy()
            self._bases[key] = decode(raw[: raw.size // width * width], dtype, storage.big_endian)
            self._keep.append(storage)
        return self._bases[key]

    def _strided(self, leaf: Tensor) -> Array:
        base = self._base(leaf.storage, leaf.dtype)
        count = math.prod(leaf.shape)
        if count == 0:
            return np.empty(leaf.shape, base.dtype)
        last = leaf.offset + sum((size - 1) * step for size, step in zip(leaf.shape, leaf.stride, strict=True))
        if last >= base.size:
            raise Excessive(
                f"a {leaf.dtype} tensor of shape {list(leaf.shape)} reaches element {last} of"
                f" {leaf.storage.name[:80]}, which has {base.size}"
            )
        step = base.dtype.itemsize
        self._spend(count * step)
        # The stride of an axis of size 1 means nothing, and may be any number.
        tight = _contiguous(leaf.shape)
        strides = tuple(t if n == 1 else s for n, s, t in zip(leaf.shape, leaf.stride, tight, strict=True))
        if strides == tight:
            return base[leaf.offset : leaf.offset + count].reshape(leaf.shape)
        strides = tuple(stride * step for stride in strides)
        return np.lib.stride_tricks.as_strided(base[leaf.offset :], leaf.shape, strides, writeable=False)

    def _dequantized(self, view: Array, quantizer: tuple[Any, ...]) -> Array:
        scheme = quantizer[0].path
        scale: Any
        zero: Any
        if scheme == "torch.per_tensor_affine" and len(quantizer) == 3:
            scale, zero = np.float64(quantizer[1]), np.float64(quantizer[2])
        elif scheme.startswith("torch.per_channel_affine") and len(quantizer) == 4:
            parts = [np.asarray(self.array(part) if isinstance(part, Tensor) else part, np.float64)
                     for part in quantizer[1:3]]  # fmt: skip
            axis = quantizer[3]
            fits = _whole(axis) and axis < view.ndim
            if not fits or any(part.shape != view.shape[axis : axis + 1] for part in parts):
                raise Damaged("a quantized tensor has not one scale for each channel")
            lined_up = [1] * view.ndim
            lined_up[axis] = -1
            scale, zero = (part.reshape(lined_up) for part in parts)
        else:
            raise Damaged(f"a tensor is quantized by an unknown scheme {scheme[:40]}")
        self._spend(view.size * 8)
        return np.asarray((view.astype(np.float64) - zero) * scale, np.float32)

    def _dense(self, leaf: Sparse) -> Array | Absent:
        indices, values = self.array(leaf.indices), self.array(leaf.values)
        if isinstance(indices, Absent) or isinstance(values, Absent):
            return Absent("its indices or values cannot be read")
        self._spend(math.prod(leaf.shape) * values.dtype.itemsize)
        axes = indices.shape[0] if indices.ndim == 2 else -1
        fits = 0 <= axes <= len(leaf.shape) and values.shape == (indices.shape[1], *leaf.shape[axes:])
        if not fits or any(np.any((indices[i] < 0) | (indices[i] >= leaf.shape[i])) for i in range(axes)):
            raise Damaged("a sparse tensor's indices do not fit its shape")
        dense = np.zeros(leaf.shape, values.dtype)
        np.add.at(dense, tuple(indices), values)
        return dense


def decode(raw: Array, dtype: str, big_endian: bool = False) -> Array:
    """uint8[n] → the elements of a torch dtype; those that numpy lacks become the next wider float or complex.

    bfloat16 and the float8s become float32 and complex32 becomes complex64: all exact.
    """
    order = ">" if big_endian else "<"
    native = _DTYPES[dtype][1]
    if native is not None:
        made = raw.view(native if native in ("?", "i1", "u1") else order + native)
        return made if made.dtype.isnative else made.astype(made.dtype.newbyteorder("="))
    if dtype == "bfloat16":
        return (raw.view(f"{order}u2").astype(np.uint32) << 16).view(np.float32)
    if dtype == "complex32":
        return raw.view(f"{order}f2").astype(np.float32).view(np.complex64)
    values: Array = _float8_values(dtype)[raw]
    return values


def _float8_values(dtype: str) -> Array:
    """The 256 values of an 8-bit float (e4m3fn and e5m2: arXiv:2209.05433; the fnuz ones: arXiv:2206.02915;
    e8m0: OCP Microscaling Formats specification 1.0, section 5.4.1)."""
    codes = np.arange(256)
    if dtype == "float8_e8m0fnu":
        return np.where(codes == 255, np.nan, np.exp2(codes - 127.0)).astype(np.float32)
    mantissa_bits = 3 if "e4m3" in dtype else 2
    bias = {"float8_e4m3fn": 7, "float8_e5m2": 15, "float8_e4m3fnuz": 8, "float8_e5m2fnuz": 16}[dtype]
    sign = np.where(codes & 128, -1.0, 1.0)
    exponent = (codes & 127) >> mantissa_bits
    fraction = (codes & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    normal = np.exp2(exponent - float(bias)) * (1 + fraction)
    value: Array = sign * np.where(exponent == 0, np.exp2(1.0 - bias) * fraction, normal)
    if dtype == "float8_e4m3fn":
        value[[0x7F, 0xFF]] = np.nan
    elif dtype == "float8_e5m2":
        top = exponent == 31
        value = np.where(top, np.where(fraction == 0, sign * np.inf, np.nan), value)
    else:
        value[0x80] = np.nan
    return value.astype(np.float32)
