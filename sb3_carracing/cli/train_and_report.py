"""`train_and_report`: train, then evaluate, plot and film that run, and write its report."""

import argparse

from sb3_carracing.checks import whole_number


def main(argv: list[str]) -> None:
    """Train, then evaluate, plot and film that run, and write its report: what `make train` does.

    Args:
        argv: `[--tracks N] -- <arguments of train>`.
    """
    parser = argparse.ArgumentParser(prog="python -m sb3_carracing train_and_report", description=__doc__)
    parser.add_argument("--tracks", type=int, default=10, help="number of tracks to evaluate on (default: %(default)s)")
    parser.add_argument("train_arguments", nargs="*", help="after --: arguments of train")
    args = parser.parse_args(argv)
    whole_number("--tracks", args.tracks, 1)
    from sb3_carracing.cli.table import COMMANDS

    run_folder = COMMANDS["train"].load()(args.train_arguments, then="plots, scores, film and report")
    if run_folder is None:
        print("The training did not finish: skipping evaluate, plot, record and report")
        return
    from sb3_carracing.pipelines import env_spec, is_car_racing
    from sb3_carracing.runs import read_run

    COMMANDS["plot"].load()([str(run_folder)])
    env_id = read_run(run_folder, trust=True).pipeline.env_id  # made just now, by whatever the user named
    if is_car_racing(env_spec(env_id)):
        COMMANDS["evaluate"].load()([str(run_folder), "-n", str(args.tracks), "--trust"])
        COMMANDS["record"].load()([str(run_folder), "-n", "1", "--trust"])
    else:
        print(f"{env_id} is not a CarRacing: skipping evaluate and record; use enjoy to watch the agent")
    COMMANDS["report"].load()([str(run_folder), "--tracks", "0", "--trust"])
    print(f"Everything is in {run_folder}; open {run_folder}/report.html in a browser")
