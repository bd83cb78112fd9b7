"""`convert`: convert an agent of an earlier version to the format without pickle."""

import argparse

from sb3_carracing.errors import preparation


def main(argv: list[str]) -> None:
    """Run `python -m sb3_carracing convert`."""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_carracing convert",
        description="Convert a beta_ppo agent that was saved in SB3's format to the format without pickle.",
    )
    parser.add_argument("old", metavar="OLD.zip", help="the agent")
    parser.add_argument("new", metavar="NEW.zip", help="file to write; may be the old one")
    parser.add_argument("--trust", action="store_true", help="unpickle objects outside the allowlist, which may run code")
    args = parser.parse_args(argv)
    from sb3_carracing.converting import convert

    with preparation():
        convert(args.old, args.new, args.trust)
    print(f"written: {args.new}")
