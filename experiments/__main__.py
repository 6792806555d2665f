"""Train networks, test them, and collect what they have learned: python -m experiments."""

from __future__ import annotations

import argparse
import math
import pathlib
import typing

import torch

from experiments import ablation, drawing, harness, lengths
from experiments.collect import collect
from experiments.settings import DEFAULTS, Settings, settings
from experiments.tasks import MODELS, TASKS, make_task

OPTIONS = {
    name: kind
    for name, kind in typing.get_type_hints(Settings).items()
    if name not in ("task", "model", "seed")
}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, run, arguments, words_of_help in (
        ("train", _train, _train_arguments, "train networks, or go on training"),
        ("lengths", _lengths, _lengths_arguments, "test trained networks at other lengths"),
        ("draw", _draw, _draw_arguments, "complete digits, pixel by pixel"),
        ("ablate", _ablate, _seeds_argument, "train Mamba without each of its parts, on a CPU"),
        ("collect", _collect, _collect_arguments, "write the runs of a task to the results"),
    ):
        command = commands.add_parser(name, help=words_of_help)
        arguments(command)
        command.set_defaults(run=run)
    arguments = parser.parse_args(words)
    arguments.run(arguments)


def _train_arguments(parser):
    parser.add_argument("task", choices=TASKS)
    parser.add_argument(
        "models",
        nargs="+",
        metavar="model",
        help="; ".join(f"{task}: {', '.join(names)}" for task, names in MODELS.items()),
    )
    _seeds_argument(parser, default=[0])
    _folder_argument(parser)
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="for each network; then save and stop"
    )
    _data_argument(parser)
    for name, kind in OPTIONS.items():
        values = ", ".join(
            f"{usual[name]} ({task})" for task, usual in DEFAULTS.items() if name in usual
        )
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            help=f"by default {values}",
            choices=harness.SCHEDULES if name == "schedule" else None,
        )


def _seeds_argument(parser, default=(0, 1, 2)):
    parser.add_argument("--seeds", type=int, nargs="+", default=default)


def _folder_argument(parser):
    parser.add_argument(
        "--folder",
        type=pathlib.Path,
        default=pathlib.Path("runs"),
        help="where states and logs are kept, and found again",
    )


def _data_argument(parser):
    parser.add_argument(
        "--data", help="folder with the files of MNIST; missing ones are downloaded"
    )


def _train(arguments):
    given = {name: value for name in OPTIONS if (value := getattr(arguments, name)) is not None}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for seed in arguments.seeds:
        for model in arguments.models:
            task = make_task(settings(arguments.task, model, seed, given), device, arguments.data)
            harness.train(task, arguments.folder, arguments.minutes)


def _lengths_arguments(parser):
    parser.add_argument(
        "states",
        nargs="+",
        type=pathlib.Path,
        metavar="state",
        help="a NAME.pt of the task induction or copying",
    )
    parser.add_argument("--longest", type=int, default=lengths.LONGEST)


def _lengths(arguments):
    for path in arguments.states:
        lengths.measure(path, arguments.longest)


def _draw_arguments(parser):
    parser.add_argument("state", type=pathlib.Path, help="a NAME.pt of the task drawing")
    _data_argument(parser)


def _draw(arguments):
    print(drawing.draw(arguments.state, arguments.data))


def _ablate(arguments):
    print(ablation.write(arguments.seeds))


def _collect_arguments(parser):
    parser.add_argument("task", choices=TASKS)
    _folder_argument(parser)


def _collect(arguments):
    for path in collect(arguments.task, arguments.folder):
        print(path)


if __name__ == "__main__":
    main()
