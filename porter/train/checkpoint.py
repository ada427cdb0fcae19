# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a stage: safetensors files with a JSON text in the header. Nothing in them is ever run.

``<stage>-checkpoint-best.safetensors`` is the model at the best value of the metric; ``<stage>-checkpoint-last`` holds
what the next epoch needs as well. A file is in place whole or not at all, so that a kill loses the epoch under way and
nothing else.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import porter.checkpoint as any_checkpoint
from porter.errors import PorterError
from porter.files import atomic_file, input_file, sha256
from porter.train.config import Config, Stage
from porter.train.typed import nearest

try:
    import fcntl
except ImportError:  # not a Unix: nothing keeps two trainings apart there
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "Saved", "best_path", "digest", "last_path", "load_into", "locked", "open_best", "pack_optimizer", "read",
    "read_weights", "unpack_optimizer", "write",
]  # fmt: skip

_KEY = "porter"
#: Changes when the layout of the files does.
VERSION = 1
#: Names that a message lists at most.
_SHOWN = 5


@dataclass(slots=True)
class Saved:
    """A checkpoint: ``tensors`` by name, ``facts`` as JSON (stage, task, epoch, metrics, ...)."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with ``prefix/``, without it."""
        return {name[len(prefix) + 1 :]: t for name, t in self.tensors.items() if name.startswith(f"{prefix}/")}


def best_path(config: Config, stage: Stage) -> Path:
    """Where the best model of a stage is."""
    return config.folder / f"{stage}-checkpoint-best.safetensors"


def last_path(config: Config, stage: Stage) -> Path:
    """Where the state is from which a stage resumes."""
    return config.folder / f"{stage}-checkpoint-last.safetensors"


def write(path: Path, saved: Saved) -> None:
    """Write a checkpoint in the place of an older one.

    Raises:
        PorterError: PT510 or PT511 when it cannot be written.
    """
    from safetensors.torch import save

    # Tied parameters are written twice: the format has no shared storages.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in saved.tensors.items()}
    facts = {"version": VERSION, **saved.facts}
    with atomic_file(path, overwrite=True) as temporary:
        # Not the package's save_file, whose files only their owner can read.
        temporary.write_bytes(save(tensors, {_KEY: json.dumps(facts)}))


def read(path: Path) -> Saved:
    """Read a checkpoint that :func:`write` wrote.

    Raises:
        PorterError: PT501 when there is none; PT502 when it is damaged; PT503 when something else wrote it.
    """
    from safetensors import SafetensorError, safe_open

    file = input_file(path)
    try:
        with safe_open(str(file), framework="pt") as opened:
            text = (opened.metadata() or {}).get(_KEY)
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no dict
        facts = None if text is None else json.loads(text)
    except (SafetensorError, ValueError, OSError) as error:
        raise PorterError("PT502", f"{path} is damaged: {error}", str(path), "Train that stage again.") from error
    if not isinstance(facts, dict) or facts.get("version") != VERSION:
        raise PorterError("PT503", f"{path} is no checkpoint of `porter train`", str(path))
    return Saved(tensors, facts)


def open_best(config: Config, stage: Stage, wanted_by: str) -> tuple[Saved, Path]:
    """The best checkpoint of a stage.

    Raises:
        PorterError: PT703 when that stage has not been run.
    """
    path = best_path(config, stage)
    if not path.is_file():
        raise PorterError(
            "PT703", f"{wanted_by} needs the best checkpoint of {stage}, and there is none", str(path),
            f"Run `porter train --stage {stage} --config {config.path}` first, or set ckpt_dir.",
        )  # fmt: skip
    return read(path), path


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The weights of any checkpoint that porter reads; nothing that it pickles is run.

    Raises:
        PorterError: as :func:`porter.checkpoint.read_checkpoint`.
    """
    # The user's arrays are mapped read-only; torch must not be handed what it could write to.
    found = any_checkpoint.read_checkpoint(path).tensors
    weights = {name: torch.from_numpy(array.copy()) for name, array in found.items()}
    inside = {name[6:]: tensor for name, tensor in weights.items() if name.startswith("model/")}
    return inside or weights


def load_into(
    module: nn.Module,
    state: Mapping[str, Tensor],
    path: Path | str,
    *,
    allow_miss: bool = False,
    ignore_extra: bool = False,
) -> list[str]:
    """Give a module the tensors of a checkpoint.

    Args:
        module: takes them.
        state: the tensors by name.
        path: the file, for messages.
        allow_miss: the file may lack some of the module's names; those keep their values.
        ignore_extra: the file may have names that the module lacks.

    Returns:
        The names that were missing, then those that were left over, as sentences for a report.

    Raises:
        PorterError: PT704 with every kind of disagreement, when the checkpoint is of another model.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    extra = [name for name in state if name not in own]
    shapes = [
        f"{name} is {list(state[name].shape)} in the file and {list(tensor.shape)} in the model"
        for name, tensor in own.items() if name in state and state[name].shape != tensor.shape
    ]  # fmt: skip
    wrong = []
    if missing and not allow_miss:
        wrong.append(f"{len(missing)} of the model's {len(own)} tensors are not in the file ({_some(missing)})")
    if extra and not ignore_extra:
        wrong.append(f"{len(extra)} of the file's {len(state)} tensors are not in the model ({_some(extra)})")
    if shapes:
        wrong.append(f"{len(shapes)} have another shape ({_some(shapes, '; ')})")
    if not set(own) & set(state):
        wrong = [f"no name agrees: the model has {_some(own)}, the file {_some(state)}"]
    if wrong:
        raise PorterError("PT704", f"{path} is a checkpoint of another model: {'; '.join(wrong)}", str(path),
                          _advice(missing, extra, shapes))  # fmt: skip
    module.load_state_dict({name: state.get(name, tensor) for name, tensor in own.items()})
    said = []
    if missing:
        said.append(f"{path} lacks {len(missing)} tensors, which keep their initial values ({_some(missing)})")
    if extra:
        said.append(f"{path} has {len(extra)} tensors that the model has no place for ({_some(extra)})")
    return said


def _some(names: Iterable[str], comma: str = ", ") -> str:
    listed = list(names)
    return comma.join(listed[:_SHOWN]) + (f"{comma}..." if len(listed) > _SHOWN else "")


def _advice(missing: list[str], extra: list[str], shapes: list[str]) -> str:
    if shapes:
        return "Train the stage before again: the model has changed since."
    near = nearest(missing[0], extra, cutoff=0.6) if missing and extra else None
    if near is not None:
        return f"Is {near!r} of the file {missing[0]!r} of the model? Names must be the same."
    return "If that is meant, write the converter LoadCheckpoint with allow_miss or ignore_extra."


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of an optimizer as tensors by name and as JSON."""
    state = optimizer.state_dict()["state"]
    tensors, plain = dict[str, Tensor](), dict[str, Any]()
    for index, values in state.items():
        for key, value in values.items():
            name = f"{index}/{key}"
            if isinstance(value, Tensor):
                tensors[name] = value
            else:
                plain[name] = value
    return tensors, plain


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    """Give an optimizer the state that :func:`pack_optimizer` took; its options stay those of the configuration."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in (*tensors.items(), *plain.items()):
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def digest(path: Path) -> str:
    """What tells one checkpoint from another."""
    return sha256(path)[:16]


@contextmanager
def locked(folder: Path, wanted: bool = True) -> Iterator[None]:
    """Keep other trainings out of a checkpoint folder, which is made where there is none; the system lets go of it when
    the process ends, however it ends.

    Raises:
        PorterError: PT707 when another process trains there; PT510 when the folder cannot be made.
    """
    if not wanted:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a")
    except OSError as error:
        raise PorterError("PT510", f"cannot write in {folder}: {error.strerror}", str(folder)) from error
    with file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise PorterError("PT707", f"another process trains in {folder} now", str(folder),
                              "Wait for it, or set another ckpt_dir.") from None  # fmt: skip
        # What a kill in the middle of a write has left; nobody else writes here now.
        for stale in folder.glob(".porter-*"):
            shutil.rmtree(stale, ignore_errors=True)
        yield
