"""`convert`: bring an agent of an earlier version into the format without pickle."""

import argparse

from sb3_carracing.errors import preparation


def main(argv: list[str]) -> None:
    """Run `python -m sb3_carracing convert`."""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_carracing convert",
        description="Write an agent of beta_ppo that was saved in SB3's format in the format without pickle.",
    )
    parser.add_argument("old", metavar="OLD.zip", help="the agent")
    parser.add_argument("new", metavar="NEW.zip", help="file to write; may be the old one")
    parser.add_argument("--trust", action="store_true", help="unpickle what is not on the list, which may run code")
    args = parser.parse_args(argv)
    from sb3_carracing.converting import convert

    with preparation():
        convert(args.old, args.new, args.trust)
    print(f"written: {args.new}")
