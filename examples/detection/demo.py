# SPDX-License-Identifier: Apache-2.0
"""All stages of a detector's small setting, one after another, and what each is worth.

    make demo-fcos          or    python -m examples.fcos_horizon.demo
    make demo-retinanet     or    python -m examples.retinanet_horizon.demo

The float stage takes the committed weights where there are some, unless ``--scratch`` trains them. Each stage is what
``porter train --stage ...`` runs on the same configuration, the table is ``porter predict``, the comparison at the end
``porter validate``. A demo that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from porter.files import atomic_file
from porter.report.text import console
from porter.report.training import print_epoch, print_predictions, print_stage, print_validated
from porter.train.checkpoint import best_path
from porter.train.config import STAGES, Config, load_config
from porter.train.events import Events
from porter.train.predict import predict, validate
from porter.train.stages import train

#: The figure that the stages are compared by may fall by so much from the float model to the integers.
ALLOWED_DROP = 0.01


def give_weights(config: Config, weights: Path) -> Path:
    """Put committed weights where the stage float leaves its best checkpoint, unless one with them is there."""
    path = best_path(config, "float")
    if not path.is_file() or path.read_bytes() != weights.read_bytes():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, overwrite=True) as temporary:
            temporary.write_bytes(weights.read_bytes())
    return path


def run(file: Path, weights: Path, arguments: Sequence[str] | None = None) -> int:
    """Run the demo.

    Args:
        file: the configuration.
        weights: a float checkpoint of it.
        arguments: of the command line.

    Returns:
        1 when the integers are worse than the float model by more than ALLOWED_DROP, or QAT is worse than calibration,
        or what was emitted is not what int_infer computes; else 0.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", action="store_true", help="train the float model, too")
    parser.add_argument("--restart", action="store_true", help="train anew what an earlier run has trained")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    out, config = console(), load_config(file)
    for stage in STAGES:
        out.rule(stage)
        if stage == "float" and weights.is_file() and not args.scratch:
            out.print(f"the committed weights {weights} as {give_weights(config, weights)}")
            continue
        events = Events(epoch=lambda epoch, of: print_epoch(out, epoch, of, config.monitor), note=out.print)
        print_stage(out, train(config, stage, restart=args.restart, events=events))
    out.rule("every stage on the validation images")
    predictions = predict(config, STAGES)
    print_predictions(out, predictions)
    out.rule("what was emitted against int_infer")
    validated = validate(config)
    print_validated(out, validated)
    worth = {row.stage: row.metrics[row.monitor] for row in predictions.rows}
    good = worth["int_infer"] >= worth["float"] - ALLOWED_DROP and worth["qat"] >= worth["calibration"]
    return 0 if good and validated.ok else 1
