"""Find the files that are data, not code: hyperparameters and trained agents.

They lie at the top of the repository and are copied into the wheel. An editable install has no copy, and
`importlib.resources` does not see the originals: so the packaged copy is looked for first, then the checkout's.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

_PACKAGE = Path(__file__).parent


def data_dir(name: str) -> Path:
    """Return the folder `name` ("hyperparams", "rl-trained-agents") of the wheel, else of the checkout.

    :raises FileNotFoundError: if neither has it
    """
    places = [_PACKAGE / name, _PACKAGE.parent / name]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(f"No folder {name!r} in {' or '.join(str(place.parent) for place in places)}")


def hyperparams_file(algo: str) -> Path:
    """Return where the packaged YAML file of an algorithm ("beta_ppo") is, if this package has one."""
    return data_dir("hyperparams") / f"{algo}.yml"


def next_free(path: Path) -> Path:
    """Return `path`, or if it exists, the first of `name_2.ext`, `name_3.ext`, ... that does not."""
    candidates: Iterable[Path] = (path.with_stem(f"{path.stem}_{number}") for number in range(2, 1_000_000))
    return path if not path.exists() else next(candidate for candidate in candidates if not candidate.exists())


def listing(names: Sequence[str], nothing: str = "nothing", limit: int = 8) -> str:
    """Return the first names for a message, and how many more there are; `nothing` if there is none."""
    shown = ", ".join(names[:limit]) or nothing
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown
