# SPDX-License-Identifier: Apache-2.0
"""The JSON that configures an XGen optimization, read with every type checked and every unknown key named.

The sections and keys are those of XGen's own sample for YOLOX ("Prepare YOLOX for XGen Optimizations", section 2). A
value may be null everywhere, which means that it is not set. ``training_script_args`` belongs to the user's training
script: any key may stand there, and only one that is nearly the name of a known one is pointed out. The section
``porter`` is this project's own: what XGen finds in the script's source, porter is told by name.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from porter.errors import PorterError
from porter.files import input_file
from porter.findings import Finding

__all__ = ["FREE_SECTION", "SECTIONS", "XgenConfig", "read_xgen"]

_NUMBER = (int, float)
_TEXT = (str,)
_WHOLE = (int,)
_FLAG = (bool,)
_SWITCH = (bool, int)  # XGen writes flags that end in _yn as 0 and 1
_LIST = (list,)
_TABLE = (dict,)

#: The section whose keys belong to the user's script.
FREE_SECTION = "training_script_args"

#: Every section, its keys, and the JSON types that each takes (null aside).
SECTIONS: dict[str, dict[str, tuple[type, ...]]] = {
    "general": {
        "user_id": _TEXT, "work_place": _TEXT, "tran_scripts_path": _TEXT, "pretrained_model_path": _TEXT,
        "enable_ddp": _FLAG, "CUDA_VISIBLE_DEVICES": _TEXT, "random_seed": _WHOLE,
    },
    "user_requirements": {
        "power": _NUMBER, "accuracy": _NUMBER, "accuracy_reverse_yn": _SWITCH, "model_size": _NUMBER,
        "memory_size": _NUMBER, "latency": _NUMBER, "margin": _NUMBER, "target_type": _TEXT, "max_sampling": _WHOLE,
        "searching_variable": _TEXT, "searching_range": _LIST, "searching_granularity": _NUMBER,
    },
    "compiler": {"input_shape": (str, list), "opset_version": _WHOLE},
    FREE_SECTION: {
        "train_data_path": _TEXT, "train_label_path": _TEXT, "eval_data_path": _TEXT, "eval_label_path": _TEXT,
        "dataset_path": _TEXT, "learning_rate": _NUMBER, "common_train_epochs": _NUMBER, "device_num": _WHOLE,
        "batch_size": _WHOLE, "root_path": _TEXT, "name": _TEXT, "exp_file": _TEXT, "weights": _TEXT, "device": _TEXT,
        "imgsz": (int, list), "width": _NUMBER, "depth": _NUMBER, "num_classes": _WHOLE, "scaling_factor": _NUMBER,
        "workers": _WHOLE, "noplots": _FLAG,
    },
    "pruning": {
        "sp_retrain": _FLAG, "sp_admm": _FLAG, "sp_config_file": _TEXT, "sp_admm_update_epoch": _WHOLE,
        "sp_admm_rho": _NUMBER, "sparsity_type": _TEXT, "sp_admm_lr": _NUMBER, "sp_global_weight_sparsity": _FLAG,
        "sp_admm_block": (str, list), "sp_prune_ratios": (int, float, dict), "sp_prune_threshold": _NUMBER,
    },
    "pas": {
        "pas_ratio": _NUMBER, "pas": _FLAG, "limit_loss_weights": _NUMBER, "use_limit_loss": _FLAG,
        "pas_debug": _FLAG, "pas_rebuild": _FLAG, "pas_finetune_epoch": _WHOLE, "pas_pretrained_weight_path": _TEXT,
        "pas_ignore": (str, list), "pas_searching_ratio": _LIST, "part_name": _TEXT,
    },
    "train": {
        "log_save_folder": _TEXT, "eval_dataset_id": _TEXT, "training_dataset_id": _TEXT, "uuid": _TEXT,
        "accuracy_reverse_yn": _SWITCH, "common_save_best_yn": _SWITCH,
    },
    "scaling": {"searching_variable": _TEXT, "searching_range": _LIST, "searching_granularity": _NUMBER},
    "porter": {
        "model": _TEXT, "model_args": _TABLE, "train": _TEXT, "target": _TEXT, "dtype": _TEXT,
        "width_offset": _NUMBER, "time_limit": _NUMBER,
    },
}  # fmt: skip

_TYPE_NAMES = {int: "a whole number", float: "a number", str: "a string", bool: "true or false", list: "a list",
               dict: "an object"}  # fmt: skip
#: How alike a key of the user's own section must be to a known one to be taken for a slip.
_SLIP = 0.85


@dataclass(frozen=True, slots=True)
class XgenConfig:
    """One file, checked: its sections (keys that are null left out), and what is odd about it."""

    path: str
    sections: Mapping[str, Mapping[str, Any]]
    findings: tuple[Finding, ...] = field(default=())

    def get(self, section: str, key: str, default: Any = None) -> Any:
        """The value of a key, or ``default`` where it is null or absent."""
        return self.sections.get(section, {}).get(key, default)

    def wrong(self, section: str, key: str, problem: str, fix: str) -> PorterError:
        """The error (PT621) about the value of a key: ``problem`` completes "section.key ..."."""
        return PorterError("PT621", f"{section}.{key} {problem}", f"{self.path}: {section}.{key}", fix)

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """``compiler.input_shape``: ``"(1,3,640,640)"`` or a list. Raises PorterError PT621 for anything else."""
        raw = self.get("compiler", "input_shape")
        if raw is None:
            return None
        if isinstance(raw, str) and re.fullmatch(r"\s*[\[(]?\s*\d+(\s*[,x]\s*\d+)*\s*,?\s*[\])]?\s*", raw):
            raw = [int(n) for n in re.findall(r"\d+", raw)]
        if isinstance(raw, list) and raw and all(type(n) is int and n > 0 for n in raw):
            return tuple(raw)
        raise self.wrong("compiler", "input_shape", f"is {raw!r}, not a shape", 'Write for example "(1,3,640,640)".')

    @property
    def searching_range(self) -> tuple[float, float] | None:
        """The range of the searching variable: ``scaling``'s, or else ``user_requirements``'s."""
        for section in ("scaling", "user_requirements"):
            raw = self.get(section, "searching_range")
            if raw is not None:
                if len(raw) == 2 and all(_is(n, _NUMBER) for n in raw) and 0 < raw[0] <= raw[1]:
                    return float(raw[0]), float(raw[1])
                problem = f"is {raw!r}, not two numbers with 0 < first <= second"
                raise self.wrong(section, "searching_range", problem, "Write for example [0.2, 1].")
        return None

    def searched(self, key: str) -> Any:
        """``searching_variable`` or ``searching_granularity``: ``scaling``'s, or else ``user_requirements``'s."""
        found = self.get("scaling", key)
        return self.get("user_requirements", key) if found is None else found


def read_xgen(path: str | Path) -> XgenConfig:
    """Read and check a file. It is data: no path in it is opened, nothing is run.

    Raises:
        PorterError: PT501 when there is no such file; PT621 when it is not JSON, not an object of objects, or a value
            has the wrong type (every such value is named).
    """
    file = input_file(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise PorterError("PT621", f"{file} is not JSON: {error}", str(file), "Put the text right there.") from error
    if not isinstance(content, dict):
        raise PorterError("PT621", f"{file} holds {_said(content)}, not an object of sections", str(file))
    findings: list[Finding] = []
    mistakes: list[str] = []
    sections: dict[str, dict[str, Any]] = {}
    for name, values in content.items():
        if name not in SECTIONS:
            findings.append(_unknown(str(file), name, "section", SECTIONS))
            continue
        if values is None:
            continue
        if not isinstance(values, dict):
            mistakes.append(f"{name} is {_said(values)}, not an object")
            continue
        known = SECTIONS[name]
        for key, value in values.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=_SLIP)
                if name != FREE_SECTION or near:
                    findings.append(_unknown(str(file), f"{name}.{key}", "key", [f"{name}.{k}" for k in known]))
            elif value is not None and not _is(value, known[key]):
                wanted = " or ".join(_TYPE_NAMES[t] for t in known[key] if not (t is int and float in known[key]))
                mistakes.append(f"{name}.{key} is {_said(value)}, not {wanted}")
        sections[name] = {key: value for key, value in values.items() if value is not None}
    if mistakes:
        raise PorterError(
            "PT621", f"{file.name} has {'a value' if len(mistakes) == 1 else 'values'} of the wrong type: "
            + "; ".join(mistakes), str(file), "null stands for a value that is not set.",
        )  # fmt: skip
    config = XgenConfig(str(file), sections, tuple(findings))
    return XgenConfig(str(file), sections, (*findings, *_disagreements(config), *_unused(config)))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands there twice")
        found[key] = value
    return found


def _is(value: Any, types: tuple[type, ...]) -> bool:
    # bool is an int to Python, not to JSON; JSON's NaN and Infinity are no use to anyone here.
    if isinstance(value, bool):
        return bool in types
    if isinstance(value, float) and not abs(value) < float("inf"):
        return False
    return isinstance(value, types)


def _said(value: Any) -> str:
    text = json.dumps(value)
    return f"{text[:40]}{'...' if len(text) > 40 else ''}"


def _unknown(file: str, name: str, what: str, known: Any) -> Finding:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    fix = f"Did you mean {near[0]}?" if near else f"Take it out; porter and XGen's sample have no such {what}."
    return Finding("PT620", "warning", f"{file}: there is no {what} {name}; it is ignored", fix=fix)


def _disagreements(config: XgenConfig) -> list[Finding]:
    """What ``scaling`` and ``user_requirements`` both say, and not alike."""
    found = []
    for key in ("searching_variable", "searching_range", "searching_granularity"):
        ours, theirs = config.get("scaling", key), config.get("user_requirements", key)
        if ours is not None and theirs is not None and ours != theirs:
            message = (
                f"{config.path}: scaling.{key} is {ours} and user_requirements.{key} is {theirs}; the first counts"
            )
            found.append(Finding("PT620", "warning", message, fix="Make them agree, or leave one null."))
    return found


def _unused(config: XgenConfig) -> list[Finding]:
    """What the file asks for, and a scaling search does not do."""
    asked = [
        (config.get("user_requirements", "power") is not None, "user_requirements.power",
         "porter has no estimate of power; the requirement is ignored", ""),
        (any(config.get("pruning", k) for k in ("sp_retrain", "sp_admm", "sp_prune_ratios")), "pruning",
         "scaling does not prune", "Run `porter prune` on the result."),
        (bool(config.get("pas", "pas")), "pas", "porter has no such search", "Run `porter prune` on the result."),
    ]  # fmt: skip
    return [
        Finding("PT620", "note", f"{config.path}: {key}: {text}", fix=fix) for wanted, key, text, fix in asked if wanted
    ]
