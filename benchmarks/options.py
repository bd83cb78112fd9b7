"""Options that the scripts share, with the same meaning everywhere: --out, --seeds, --rounds."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def parser(
    doc: str | None,
    *,
    out: Path | None = None,
    out_help: str = "write all figures to this file",
    seeds: Sequence[int] | None = None,
    rounds: int | None = None,
) -> argparse.ArgumentParser:
    """Return a parser with a script's docstring as its help and the shared options that the script has.

    Args:
        doc: docstring of the script.
        out: default of --out; None: nothing is written unless it is given.
        out_help: what is written there.
        seeds: default of --seeds; None: there is no such option.
        rounds: default of --rounds; None: there is no such option.
    """
    result = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--out", type=Path, default=out, help=f"{out_help} (default: {out or 'none is written'})")
    if seeds is not None:
        result.add_argument("--seeds", type=int, nargs="+", default=list(seeds), help="random seeds (default: %(default)s)")
    if rounds is not None:
        result.add_argument("--rounds", type=int, default=rounds, help="interleaved repetitions (default: %(default)s)")
    return result
