"""The table of commands, from which the help and the error messages are made."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sb3_carracing.errors import UserError

EVERYDAY = "everyday commands"
OF_RL_ZOO3 = "rl-zoo3's other commands, with its arguments"


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        name: what the user types.
        help: one line.
        target: "module:function" in `sb3_carracing`. The function takes the command's arguments as a list.
        group: heading in the help.
        extra: optional dependencies of this package that it needs.
    """

    name: str
    help: str
    target: str
    group: str
    extra: str = "zoo"

    def load(self) -> Callable[..., Any]:
        """Import the function, and with it the libraries that it needs.

        Raises:
            UserError: a library is not installed.
        """
        module, _, function = self.target.partition(":")
        with libraries_of(self.name, self.extra):
            loaded: Callable[..., Any] = getattr(importlib.import_module(f"sb3_carracing.{module}"), function)
        return loaded


@contextmanager
def libraries_of(command: str, extra: str = "zoo") -> Iterator[None]:
    """Raise a UserError if an import fails because a library that a command needs is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "sb3_carracing":
            raise
        message = f"{command} needs {error.name}, which is not installed: pip install 'sb3-carracing[{extra}]'"
        raise UserError(message) from error


COMMANDS = {
    command.name: command
    for command in (
        Command("demo", "watch the shipped agent drive", "cli.demo:main", EVERYDAY),
        Command("train", "train an agent: logs/<algo>/<env>_N", "zoo.commands:train", EVERYDAY),
        Command("enjoy", "watch a trained agent", "zoo.commands:enjoy", EVERYDAY),
        Command("evaluate", "score an agent on CarRacing-v3's test tracks", "cli.evaluate:main", EVERYDAY),
        Command("record", "film laps with the running score on them", "cli.record:main", EVERYDAY),
        Command("report", "write one HTML file: curves, scores, maps and replays", "cli.report:main", EVERYDAY),
        Command("plot", "draw losses, entropy, KL and scores of runs", "cli.plot:main", EVERYDAY),
        Command("tune", "search hyperparameters on one machine or many", "cli.tune:main", EVERYDAY),
        Command("preview", "show what an agent sees", "cli.preview:main", EVERYDAY),
        Command("export", "write an agent as ONNX", "cli.export:main", EVERYDAY, "onnx"),
        Command("convert", "convert an agent to the format without pickle", "cli.convert:main", EVERYDAY),
        Command("train_and_report", "train, then evaluate, plot and record the run", "cli.train_and_report:main", EVERYDAY),
        Command("record_video", "film a trained agent", "zoo.commands:record_video", OF_RL_ZOO3),
        Command("record_training", "film a run's agents one after the other", "zoo.commands:record_training", OF_RL_ZOO3),
        Command("benchmark", "evaluate the agents of a folder and write a table", "cli.benchmark:main", OF_RL_ZOO3),
        Command("plot_train", "plot the returns of training episodes", "zoo.plots:plot_train", OF_RL_ZOO3),
        Command("all_plots", "compare the evaluations of several runs", "zoo.plots:all_plots", OF_RL_ZOO3),
        Command("plot_from_file", "plot what all_plots has saved", "zoo.plots:plot_from_file", OF_RL_ZOO3),
        Command("load_from_hub", "download an agent from the Hugging Face hub", "zoo.commands:load_from_hub", OF_RL_ZOO3),
        Command("push_to_hub", "upload an agent to the Hugging Face hub", "zoo.commands:push_to_hub", OF_RL_ZOO3),
    )
}
"""Every command by its name, in the order of the help."""


def usage() -> str:
    """Return what `--help` prints."""
    width = max(map(len, COMMANDS)) + 2
    lines = ["usage: sb3-carracing [--version] <command> [arguments]", ""]
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        commands = [command for command in COMMANDS.values() if command.group == group]
        lines += [f"{group}:", *(f"  {command.name:{width}}{command.help}" for command in commands), ""]
    lines += [
        "`sb3-carracing <command> --help` lists a command's arguments. Without --algo and",
        "--env, the algorithm is beta_ppo and the environment CarRacingFast-v3. Bad input",
        "exits with status 2 and a one-line error; SB3_CARRACING_TRACEBACK=1 shows where",
        "it was raised.",
    ]
    return "\n".join(lines) + "\n"
