"""The command line: rl-zoo3's commands with `beta_ppo` registered, and this package's own."""

import importlib
import os
import sys

from sb3_carracing.errors import UserError
from sb3_carracing.system import no_window

USAGE = """\
usage: python -m sb3_carracing <command> [arguments]

rl-zoo3's commands, with its arguments; --algo is beta_ppo where none is given:
  train          train an agent, logs/<algo>/<env>_N; hyperparameters from the package unless -conf names a file
  enjoy          watch a trained agent
  record_video   film a trained agent
  record_training
                 film a run's checkpoints, best and last agent one after the other
  plot_train, all_plots, plot_from_file
                 rl-zoo3's plots
  benchmark      play the latest run of each algorithm and environment in a folder, write a table
  load_from_hub, push_to_hub
                 agents from and to the Hugging Face hub
  tune           search hyperparameters on one machine or many; --best prints and trains the best found

this package's own:
  evaluate       score an agent on the stock CarRacing-v3: raw score, whole episodes, fixed test tracks
  plot           losses, entropy, KL and scores of one or several runs
  record         a GIF of laps with the running score on it
  preview        the raw picture beside what the agent sees
  train_and_report [--tracks N] -- <train's arguments>
                 train, then evaluate, plot and record that run; what `make train` does

python -m sb3_carracing <command> --help tells the arguments.
"""
# Command -> module and function; imported only when called for.
OWN_COMMANDS = {
    "evaluate": ("sb3_carracing.cli.evaluate", "main"),
    "plot": ("sb3_carracing.cli.plot", "main"),
    "record": ("sb3_carracing.cli.record", "main"),
    "preview": ("sb3_carracing.cli.preview", "main"),
}
ZOO_COMMANDS = (
    *("train", "enjoy", "record_video", "record_training", "plot_train", "all_plots", "plot_from_file"),
    *("benchmark", "load_from_hub", "push_to_hub", "tune", "train_and_report"),
)


def main(argv: list[str] | None = None) -> None:
    """Run one command; bad input ends with one sentence on stderr and exit status 2."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return
    command, arguments = argv[0], argv[1:]
    if command not in OWN_COMMANDS and command not in ZOO_COMMANDS:
        known = ", ".join([*ZOO_COMMANDS, *OWN_COMMANDS])
        sys.exit(_fail(f"unknown command {command!r}; choose one of {known}"))
    no_window()
    try:
        if command in OWN_COMMANDS:
            module, function = OWN_COMMANDS[command]
            run = getattr(importlib.import_module(module), function)
        else:
            from sb3_carracing.zoo import commands
    except ModuleNotFoundError as error:
        sys.exit(_fail(f"{command} needs {error.name}, which is not installed: pip install 'sb3-carracing[zoo]'"))
    if command in OWN_COMMANDS:
        try:
            run(arguments)
        except (UserError, OSError) as error:
            sys.exit(_fail(str(error)))
        return
    try:
        if command == "train_and_report":
            commands.train_and_report(arguments)
        elif command == "tune":
            commands.tune(arguments)
        else:
            commands.run(command, arguments)
    except Exception as error:
        # Not before: what prints the usage loads no library.
        from yaml import YAMLError

        told = isinstance(error, (ValueError, AssertionError, OSError, YAMLError))
        if not told or os.environ.get("SB3_CARRACING_TRACEBACK"):
            raise
        sys.exit(_fail(f"{str(error) or repr(error)}\n(SB3_CARRACING_TRACEBACK=1 shows where it was raised)"))


def _fail(message: str) -> int:
    print(f"sb3_carracing: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
