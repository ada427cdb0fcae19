# SPDX-License-Identifier: Apache-2.0
"""Calibration and verification data: image folders, .npy/.npz files, functions, iterables, random inputs.

Whatever the source, :class:`Data` yields items that fit the model's inputs: a list of numpy arrays in the
order of the inputs, batch included, of the inputs' own shapes and dtypes. A sample that does not fit is an
error that names it before the model runs.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from porter.errors import PorterError
from porter.files import input_file
from porter.findings import Finding
from porter.ops import Array, Value
from porter.preprocess import Preprocess
from porter.usercode import call_by_name, run_user_code

__all__ = ["Data", "Preprocess", "open_data", "random_inputs"]

_IMAGES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})

_EXAMPLE = 'resize = "letterbox", pad = 114, channels = "BGR" (and scale, mean, std as in training)'


@dataclass(slots=True)
class Data:
    """Samples that fit a model's inputs; iterate it as often as needed. ``len`` is the number of items (runs
    of the model).

    ``findings`` holds warnings about the samples seen so far; it grows while the data is first read. Those of ``raw``,
    about pixels that are fed as they are, are guesses that a look at the model's first layer can refute.
    ``preprocess`` is the spec of an image folder, for whoever must do the same on the device.
    """

    name: str
    inputs: tuple[Value, ...]
    preprocess: Preprocess | None = None
    findings: list[Finding] = field(default_factory=list)
    raw: list[Finding] = field(default_factory=list)
    _length: int = 0
    _source: Callable[[], Iterator[Any]] = field(default=lambda: iter(()), repr=False)
    _warned: set[str] = field(default_factory=set, repr=False)
    _scale_seen: dict[str, tuple[float, int]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[Array]]:
        """Yield each item. Raises :class:`PorterError` PT402, PT403 or PT404 at the first that does not
        fit.
        """
        count = 0
        for index, raw in enumerate(self._source()):
            yield self._item(raw, index)
            count += 1
        if count == 0:
            raise PorterError("PT401", f"{self.name} holds no sample", fix="Give at least one sample.")

    def take(self, count: int) -> list[list[Array]]:
        """The first ``count`` items (fewer when there are fewer)."""
        items = []
        for item in self:
            items.append(item)
            if len(items) >= count:
                break
        return items

    def _item(self, raw: Any, index: int) -> list[Array]:
        arrays = _in_order(raw, self.inputs, f"sample {index} of {self.name}")
        return [self._fit(array, value, index) for array, value in zip(arrays, self.inputs, strict=True)]

    def _fit(self, array: Array, value: Value, index: int) -> Array:
        """One array for one input, checked, in the input's dtype."""
        where = f"{self.name}, sample {index}, input {value.name}"
        if array.shape != value.shape:
            need = _dims(value.shape or ())
            raise PorterError(
                "PT402",
                f"input {value.name} is {need}, but the sample is {_dims(array.shape)}",
                where=where,
                fix=_shape_fix(array.shape, value.shape or ()),
            )
        want = np.dtype(value.dtype or "float32")
        if array.dtype.kind not in "fiub" or (array.dtype.kind == "f" and want.kind in "iub"):
            raise PorterError(
                "PT402",
                f"input {value.name} is {want}, but the sample is {array.dtype}",
                where=where,
                fix=f"Convert the samples to {want}.",
            )
        if array.size == 0:
            raise PorterError("PT402", f"the sample for input {value.name} is empty", where=where)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = int(array.size - np.isfinite(array).sum())
            raise PorterError(
                "PT403",
                f"{bad} of {array.size} values for input {value.name} are NaN or infinite",
                where=where,
                fix="Remove or repair the sample.",
            )
        if want.kind in "iu" and array.dtype != want:
            info = np.iinfo(want)
            if int(array.min()) < info.min or int(array.max()) > info.max:
                raise PorterError("PT402", f"values for input {value.name} do not fit {want}", where=where)
        self._look(array, value, want, index)
        return np.asarray(array, want, order="C")

    def _warn(self, key: str, message: str, fix: str) -> list[Finding]:
        """The finding, where it is the first of its key."""
        if key in self._warned:
            return []
        self._warned.add(key)
        found = [Finding("PT406", "warning", message, fix=fix, op=self.name)]
        self.findings += found
        return found

    def _look(self, array: Array, value: Value, want: np.dtype[Any], index: int) -> None:
        """Warn about what is legal but unlikely to be meant; each thing once."""
        if want.kind != "f":
            return
        low, high = float(array.min()), float(array.max())
        if low == high and array.size > 1:
            self._warn(
                f"constant {value.name}",
                f"sample {index} for input {value.name} is {low:g} everywhere; it shows no real activation",
                "Calibrate on samples of the kind that the model will see.",
            )
            return
        if self.preprocess is None and (array.dtype.kind in "iu" or (index == 0 and _pixels(array, low, high))):
            self.raw += self._warn(
                f"raw {value.name}",
                f"{array.dtype} samples of whole numbers ({low:g}..{high:g}) are fed as they are to {want} input "
                f"{value.name}",
                "If the model was trained on 0..1 or on normalized values, scale the samples first.",
            )
        top = max(abs(low), abs(high))
        before, first = self._scale_seen.setdefault(value.name, (top, index))
        # Within one set, 0..255 pixels beside 0..1 values differ by 255; images of one kind rarely by 30.
        if top > 0 and before > 0 and max(top / before, before / top) > 30:
            self._warn(
                f"mixed {value.name}",
                f"sample {index} for input {value.name} reaches {top:g}, sample {first} only {before:g}: "
                "some samples look like 0..255 and others like 0..1",
                "Bring all samples to the scale that the model was trained on.",
            )


def _pixels(array: Array, low: float, high: float) -> bool:
    """Whether a float image holds what a decoder gives: whole numbers up to 255, many of them large."""
    return array.ndim >= 3 and low >= 0 and 64 <= high <= 255 and bool((array == np.rint(array)).all())


def _dims(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _shape_fix(got: tuple[int, ...], need: tuple[int, ...]) -> str:
    if got == need[1:]:
        return "Add the batch axis."
    if len(got) == len(need) == 4 and (got[0], got[3], got[1], got[2]) == need:
        return "The sample is NHWC and the model wants NCHW: transpose it with (0, 3, 1, 2)."
    if len(got) == len(need) and got[1:] == need[1:]:
        return f"The model's batch is {need[0]}: give items of {need[0]}, or fix the batch to {got[0]}."
    return f"Make every item {_dims(need)}, batch included."


def _array(value: Any) -> Array:
    """Anything array-like as numpy; torch tensors are taken off their device, without importing torch."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.asarray(value)


def _in_order(raw: Any, inputs: Sequence[Value], where: str) -> list[Array]:
    """The arrays of one item in the order of the inputs."""
    names = ", ".join(v.name for v in inputs)
    if isinstance(raw, Mapping):
        missing = [v.name for v in inputs if v.name not in raw]
        extra = [str(name) for name in raw if name not in {v.name for v in inputs}]
        if missing or extra:
            these = ", ".join(missing or extra)
            what = f"lacks {these}" if missing else f"has {these}, which is no input"
            raise PorterError(
                "PT402",
                f"the item {what}",
                where=where,
                fix=f"The inputs are {names}.",
            )
        return [_array(raw[v.name]) for v in inputs]
    if isinstance(raw, list | tuple):
        if len(raw) != len(inputs):
            raise PorterError(
                "PT402",
                f"the item has {len(raw)} arrays, the model {len(inputs)} inputs ({names})",
                where=where,
                fix="Give one array for each input, in that order, without labels.",
            )
        return [_array(part) for part in raw]
    if len(inputs) != 1:
        raise PorterError(
            "PT402",
            f"the item is one array, the model has {len(inputs)} inputs ({names})",
            where=where,
            fix="Give one array for each input, in that order.",
        )
    return [_array(raw)]


def open_data(
    spec: str | os.PathLike[str] | Iterable[Any],
    graph_inputs: Sequence[Value],
    preprocess: Preprocess | str | os.PathLike[str] | None = None,
) -> Data:
    """Open calibration or verification data. The first item is read and checked at once.

    Args:
        spec: a folder of images (read in the order of their names, sub-folders included); a ``.npy`` file
            (samples stacked along axis 0; single-input models); a ``.npz`` file (one such stack for each
            input, by name); ``module:function``, which is imported and called, and returns an iterable of
            items; or an iterable. An item is a list of arrays in the order of the inputs, a mapping by input
            name, or the array of a single input.
        graph_inputs: the model's inputs; all have shapes.
        preprocess: for images: the spec, or the TOML file that holds it. Default: ``preprocess.toml`` in the
            folder.

    Samples without a batch axis, or more samples than the model's batch, are grouped into batches; the last
    batch is filled by repeating its last sample, which changes no range.

    Raises:
        PorterError: PT401 no sample; PT402 a sample that does not fit; PT403 NaN or infinity; PT404 a file or
            function that cannot be read; PT405 the preprocessing spec.
    """
    inputs = tuple(graph_inputs)
    for value in inputs:
        if value.shape is None:
            raise PorterError("PT402", f"input {value.name} has no fixed shape", fix="Fix it with --input NAME:SHAPE.")
    if isinstance(spec, Data) and [(v.shape, v.dtype) for v in spec.inputs] == [(v.shape, v.dtype) for v in inputs]:
        return spec
    if not isinstance(spec, str | os.PathLike):
        data = _from_iterable(spec, inputs, "the samples")
    else:
        text = os.fspath(spec)
        path = Path(text)
        if path.is_dir():
            data = _from_folder(path, inputs, preprocess)
        elif path.suffix in (".npy", ".npz"):
            data = _from_numpy(path, inputs)
        elif not path.exists() and ":" in text:
            data = _from_function(text, inputs)
        else:
            what = "is not there" if not path.exists() else "is neither a folder of images, nor .npy, nor .npz"
            raise PorterError(
                "PT404",
                f"data: {text} {what}",
                fix="Give a folder of images, a .npy or .npz file, or module:function.",
            )
    if preprocess is not None and data.preprocess is None:
        raise PorterError("PT405", f"a preprocessing spec was given, but {data.name} is no folder of images")
    next(iter(data))
    return data


def _from_folder(
    folder: Path, inputs: tuple[Value, ...], preprocess: Preprocess | str | os.PathLike[str] | None
) -> Data:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _IMAGES and p.is_file())
    if not files:
        raise PorterError("PT401", f"{folder} holds no image", fix=f"Images end in {', '.join(sorted(_IMAGES))}.")
    if len(inputs) != 1 or len(inputs[0].shape or ()) != 4:
        raise PorterError(
            "PT402",
            f"a folder of images fits a model with one image input; this one has {', '.join(map(repr, inputs))}",
            fix="Use .npz with one array for each input, or module:function.",
        )
    shape = cast(tuple[int, ...], inputs[0].shape)
    if preprocess is None:
        if not (folder / "preprocess.toml").is_file():
            raise PorterError(
                "PT405",
                "images need a preprocessing spec: porter does not guess how the model was trained",
                where=str(folder),
                fix=f"Give a TOML file such as: {_EXAMPLE}.",
            )
        preprocess = folder / "preprocess.toml"
    if not isinstance(preprocess, Preprocess):
        preprocess = Preprocess.load(preprocess)
    size = preprocess.size or (shape[2:4] if preprocess.layout == "NCHW" else shape[1:3])
    batch = shape[0]
    recipe = replace(preprocess, size=(size[0], size[1]))

    def read() -> Iterator[Array]:
        for start in range(0, len(files), batch):
            yield _full([recipe.image(f, (size[0], size[1])) for f in files[start : start + batch]], batch)

    return Data(str(folder), inputs, recipe, _length=-(-len(files) // batch), _source=read)


def _full(samples: list[Array], batch: int) -> Array:
    """A batch of exactly ``batch`` samples; the last one is repeated to fill it."""
    return np.stack(samples + [samples[-1]] * (batch - len(samples)))


def _from_numpy(path: Path, inputs: tuple[Value, ...]) -> Data:
    input_file(path)
    try:
        loaded = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
        stacks = {name: loaded[name] for name in loaded.files} if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        pickled = "allow_pickle" in str(error) or "Python objects" in str(error)
        reason = "it holds pickled objects, and loading those would run code" if pickled else f"{error}"
        raise PorterError(
            "PT404",
            f"{path} cannot be read: {reason}",
            where=str(path),
            fix="Save plain arrays of numbers with numpy.save or numpy.savez.",
        ) from error
    if isinstance(stacks, dict) and len(stacks) == len(inputs) == 1:
        stacks = next(iter(stacks.values()))
    by_input = _in_order(stacks if isinstance(stacks, dict) else [stacks], inputs, str(path))
    batches = [_Stack(stack, value, path) for stack, value in zip(by_input, inputs, strict=True)]
    lengths = {value.name: len(b) for value, b in zip(inputs, batches, strict=True)}
    if len(set(lengths.values())) > 1:
        raise PorterError(
            "PT402",
            "the arrays hold different numbers of samples: "
            + ", ".join(f"{name} {length}" for name, length in lengths.items()),
            where=str(path),
        )
    count = len(batches[0])
    if count == 0:
        raise PorterError("PT401", f"{path} holds no sample", fix="Give at least one sample.")

    def read() -> Iterator[list[Array]]:
        for index in range(count):
            yield [b[index] for b in batches]

    return Data(str(path), inputs, _length=count, _source=read)


class _Stack(Sequence[Array]):
    """A stack of samples seen as batches of the input's shape; reads from the file only what is asked for."""

    def __init__(self, stack: Array, value: Value, path: Path) -> None:
        shape = value.shape or ()
        self._stack, self._batch, self._grouped = stack, (shape[0] if shape else 1), False
        if stack.shape == shape:
            self._length = 1
        elif stack.shape[1:] == shape:
            self._length, self._grouped = stack.shape[0], True
        elif shape and stack.shape[1:] == shape[1:]:
            self._length = -(-stack.shape[0] // self._batch)
        else:
            per = "x".join(map(str, shape[1:]))
            raise PorterError(
                "PT402",
                f"input {value.name} needs samples of {per} stacked along axis 0, but the array is "
                f"{_dims(stack.shape)}",
                where=str(path),
                fix=_shape_fix((1, *stack.shape[1:]), (1, *shape[1:])),
            )

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if self._grouped:
            return np.asarray(self._stack[index])
        if not self._stack.ndim:
            return np.asarray(self._stack)
        part = np.asarray(self._stack[index * self._batch : (index + 1) * self._batch])
        return part if len(part) == self._batch else _full(list(part), self._batch)


def _from_function(spec: str, inputs: tuple[Value, ...]) -> Data:
    function = call_by_name(spec, "data", "PT404")
    samples = run_user_code(function, f"data {spec}")
    if not isinstance(samples, Iterable):
        raise PorterError("PT404", f"{spec}() returned {type(samples).__name__}, not an iterable of samples")
    return _from_iterable(samples, inputs, spec)


def _from_iterable(samples: Iterable[Any], inputs: tuple[Value, ...], name: str) -> Data:
    """Items from memory or from a loader. What can be read once only (a generator) is kept in memory."""
    if isinstance(samples, Mapping):
        raise PorterError("PT402", f"{name} is a mapping; an iterable of items is needed", fix="Put it in a list.")
    if isinstance(samples, np.ndarray):
        only = _in_order(samples, inputs, name)[0]
        samples = _Stack(only, inputs[0], Path(name))
    kept: Any = list(samples) if iter(samples) is samples or not hasattr(samples, "__len__") else samples
    if len(kept) == 0:
        raise PorterError("PT401", f"{name} holds no sample", fix="Give at least one sample.")
    data = Data(name, inputs, _length=len(kept))
    data._source = lambda: _regrouped(kept, data)
    first = _lengths(next(iter(kept)), inputs)
    if first is not None:  # the last item of a loader may be smaller: then this is one too many, until it is read
        data._length = -(-len(kept) * first // cast(tuple[int, ...], inputs[0].shape)[0])
    return data


def _lengths(raw: Any, inputs: tuple[Value, ...]) -> int | None:
    """How many samples an item holds that is a batch of another size than the model's; None when it is none.

    The axis of a model's batch is recognized where it is 1, or where images have four axes: there, the first axis of a
    sample of another length cannot mean anything else.
    """
    try:
        arrays = [_array(a) for a in _in_order(raw, inputs, "")]
    except PorterError:
        return None
    found: set[tuple[int, int]] = set()
    for array, value in zip(arrays, inputs, strict=True):
        shape = value.shape or ()
        if (
            not shape
            or array.ndim != len(shape)
            or array.shape[1:] != shape[1:]
            or not (shape[0] == 1 or array.ndim > 3)
        ):
            return None
        found.add((array.shape[0], shape[0]))
    lengths, batches = {length for length, _ in found}, {batch for _, batch in found}
    if len(lengths) > 1 or len(batches) > 1 or lengths == batches or lengths == {0}:
        return None
    return lengths.pop()


def _regrouped(items: Iterable[Any], data: Data) -> Iterator[Any]:
    """The items; batches of another size than the model's are taken apart and put together in its size."""
    batch = (data.inputs[0].shape or (1,))[0]
    waiting: list[list[Array]] = []
    count = 0
    for raw in items:
        if not waiting and _lengths(raw, data.inputs) is None:
            count += 1
            yield raw
            continue
        arrays = _in_order(raw, data.inputs, f"sample {count} of {data.name}")
        waiting.extend([array[index] for array in arrays] for index in range(len(arrays[0])))
        while len(waiting) >= batch:
            count += 1
            yield [np.stack(parts) for parts in zip(*waiting[:batch], strict=True)]
            del waiting[:batch]
    if waiting:
        count += 1
        yield [_full(list(parts), batch) for parts in zip(*waiting, strict=True)]
    data._length = count


def random_inputs(graph_inputs: Sequence[Value], count: int, seed: int = 0) -> list[list[Array]]:
    """Deterministic inputs for a comparison: item i has the distribution normal, 0..1, 0..255, zeros, in
    turn.

    Integer inputs are in 0..7 (bounded, so that they can index small tables), bool inputs are coin flips.

    Args:
        graph_inputs: inputs with shapes.
        count: number of items.
        seed: of numpy's PCG64; the same seed gives the same values on every machine.
    """
    items = []
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        items.append([_random(value, index % 4, rng) for value in graph_inputs])
    return items


def _random(value: Value, kind: int, rng: np.random.Generator) -> Array:
    if value.shape is None:
        raise PorterError("PT402", f"input {value.name} has no fixed shape", fix="Fix it with --input NAME:SHAPE.")
    dtype = np.dtype(value.dtype or "float32")
    if dtype.kind == "b":
        return rng.integers(0, 2, value.shape).astype(dtype)
    if dtype.kind in "iu":
        return np.zeros(value.shape, dtype) if kind == 3 else rng.integers(0, 8, value.shape).astype(dtype)
    if kind == 0:
        return rng.standard_normal(value.shape).astype(dtype)
    if kind == 3:
        return np.zeros(value.shape, dtype)
    return (rng.random(value.shape) * (1.0 if kind == 1 else 255.0)).astype(dtype)
