"""`benchmark`: the arguments of rl-zoo3's benchmark."""

import argparse
from pathlib import Path

from sb3_carracing.checks import whole_number
from sb3_carracing.cli.table import libraries_of


def main(argv: list[str]) -> None:
    """Evaluate the last agent of each algorithm and environment in a folder and write a table.

    Args:
        argv: arguments of rl-zoo3's benchmark.

    Raises:
        UserError: a number is below 1, there is no such folder, or the hub does not answer.
    """
    parser = argparse.ArgumentParser(prog="python -m sb3_carracing benchmark", description=str(main.__doc__).splitlines()[0])
    add = parser.add_argument
    add("--log-dir", help="folder of trained agents (default: rl-trained-agents)")
    add("--benchmark-dir", type=Path, default=Path("logs/benchmark"), help="folder for the results (default: %(default)s)")
    add("-n", "--n-timesteps", type=int, default=150_000, help="steps to play (default: %(default)s)")
    add("--n-envs", type=int, default=1, help="number of environments (default: %(default)s)")
    add("--verbose", type=int, default=1, help="0: only warnings (default: %(default)s)")
    add("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    add("--test-mode", action="store_true", help="evaluate one agent only, and write no benchmark.md here")
    add("--with-mujoco", action="store_true", help="include the Fetch environments")
    add("--no-hub", action="store_true", help="do not download agents from the Hugging Face hub")
    add("--num-threads", type=int, default=2, help="PyTorch threads (default: %(default)s)")
    args = parser.parse_args(argv)
    for option, value in (("-n", args.n_timesteps), ("--n-envs", args.n_envs), ("--num-threads", args.num_threads)):
        whole_number(option, value, 1)
    with libraries_of("benchmark"):
        from sb3_carracing.zoo.benchmark import benchmark

    benchmark(args, argv)
