"""Command line of the training runs: python -m benchmarks.tasks {train,lengths,collect} ..."""

import argparse
import dataclasses
import math
import pathlib

from benchmarks import training
from benchmarks.tasks import lengths
from benchmarks.tasks.networks import NETWORKS
from benchmarks.tasks.tasks import TASKS
from benchmarks.tasks.train import DEFAULTS, NAMES, Settings, settings, train


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _train_arguments(commands.add_parser("train", help="train networks, or go on training"))
    longer = commands.add_parser("lengths", help="test trained networks at other lengths")
    longer.add_argument("states", nargs="+", type=pathlib.Path, metavar="state",
                        help="a NAME.pt of the task induction or copying")
    longer.add_argument("--longest", type=int, default=lengths.LONGEST)
    collect = commands.add_parser("collect", help="write the runs of a task to benchmarks/results")
    collect.add_argument("task", choices=TASKS)
    collect.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs"),
                         help="where the states of the runs are")
    arguments = parser.parse_args()
    {"train": _train, "lengths": _lengths, "collect": _collect}[arguments.command](arguments)


def _train_arguments(parser):
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("models", nargs="+", metavar="model", choices=NETWORKS,
                        help=", ".join(NETWORKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs"),
                        help="where states and logs are kept, and found again")
    parser.add_argument("--minutes", type=float, default=math.inf,
                        help="of each network; stop and save after these")
    types = {field.name: field.type for field in dataclasses.fields(Settings)}
    for name in NAMES:
        values = ", ".join(f"{values[name]} ({task})" for task, values in DEFAULTS.items())
        parser.add_argument(f"--{name.replace('_', '-')}", type=types[name],
                            choices=training.SCHEDULES if name == "schedule" else None,
                            help=f"by default {values}")


def _train(arguments):
    given = {name: value for name in NAMES if (value := getattr(arguments, name)) is not None}
    for seed in arguments.seeds:
        for model in arguments.models:
            train(settings(arguments.task, model, seed, given), arguments.folder,
                  arguments.minutes)


def _lengths(arguments):
    for path in arguments.states:
        lengths.measure(path, arguments.longest)


def _collect(arguments):
    def more(state):
        name = Settings(**state["settings"]).name
        return {"lengths": lengths.of(arguments.folder, name, state["step"])["accuracy"]}

    training.collect("tasks", arguments.task, TASKS[arguments.task].__doc__, arguments.folder, more)


if __name__ == "__main__":
    main()
