"""Command line of the training runs: python -m benchmarks.s4 {train,draw,collect} ..."""

import argparse
import dataclasses
import math
import pathlib

from benchmarks.s4 import results
from benchmarks.s4.tasks import MODELS, TASKS
from benchmarks.s4.train import Settings, train

DEFAULTS = {
    "delay": {"epochs": 40, "width": 4, "layers": 1, "batch": 16, "lr": 1e-2, "dropout": 0.0,
              "weight_decay": 0.0},
    "smnist": {"epochs": 30, "width": 128, "layers": 6, "batch": 128, "lr": 4e-3, "dropout": 0.15,
               "weight_decay": 0.05},
    "psmnist": {"epochs": 50, "width": 128, "layers": 6, "batch": 128, "lr": 4e-3, "dropout": 0.2,
                "weight_decay": 0.05},
    "drawing": {"epochs": 20, "width": 128, "layers": 6, "batch": 128, "lr": 4e-3, "dropout": 0.0,
                "weight_decay": 0.01},
}
LR = {"lstm": 2e-3, "transformer": 1e-3}  # where that of the others is too high


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.s4", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _train_arguments(commands.add_parser("train", help="train networks, or go on training"))
    draw = commands.add_parser("draw", help="complete digits, pixel by pixel")
    draw.add_argument("state", type=pathlib.Path, help="a NAME.pt of the task drawing")
    draw.add_argument("--data", help="folder with the files of MNIST; missing ones are fetched")
    collect = commands.add_parser("collect", help="write the runs of a task to benchmarks/results")
    collect.add_argument("task", choices=TASKS)
    collect.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs"),
                         help="where the states of the runs are")
    arguments = parser.parse_args()
    command = {"train": _train, "draw": results.draw, "collect": results.collect}
    command[arguments.command](arguments)


def _train_arguments(parser):
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("models", nargs="+", metavar="model",
                        help="; ".join(f"{task}: {', '.join(x)}" for task, x in MODELS.items()))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs"),
                        help="where states and logs are kept, and found again")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop and save after these")
    parser.add_argument("--data", help="folder with the files of MNIST; missing ones are fetched")
    for field in dataclasses.fields(Settings):
        if field.name in DEFAULTS["delay"]:
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=field.type,
                                help=f"by default {_defaults(field.name)}")


def _defaults(name):
    return ", ".join(f"{values[name]} ({task})" for task, values in DEFAULTS.items())


def _train(arguments):
    unknown = set(arguments.models) - set(MODELS[arguments.task])
    if unknown:
        raise SystemExit(f"model is {unknown.pop()!r}, expected one of "
                         f"{', '.join(MODELS[arguments.task])} for {arguments.task}")
    given = {name: value for name in DEFAULTS["delay"]
             if (value := getattr(arguments, name)) is not None}
    for seed in arguments.seeds:
        for model in arguments.models:
            values = DEFAULTS[arguments.task] | ({"lr": LR[model]} if model in LR else {}) | given
            train(Settings(arguments.task, model, seed, **values), arguments.folder,
                  arguments.minutes, arguments.data)


if __name__ == "__main__":
    main()
