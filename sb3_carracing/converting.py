"""Convert agents of earlier versions to the format without pickle."""

from pathlib import Path

from sb3_carracing.errors import UserError
from sb3_carracing.ppo.beta_ppo import BetaPPO
from sb3_carracing.ppo.saving.archives import Archive, read_file
from sb3_carracing.ppo.saving.loading import is_own_format


def convert(old: str | Path, new: str | Path, trust: bool = False) -> None:
    """Convert a `BetaPPO` agent from SB3's format to this package's.

    Args:
        old: its file, which stays as it is unless it is `new`.
        new: the file to write.
        trust: run code in the old file if it cannot be read otherwise.

    Raises:
        UserError: the old file is damaged, needs trust, or is in the new format already.
    """
    if is_own_format(Archive(*read_file(old))):
        raise UserError(f"{old} is in the new format already")
    BetaPPO.load(old, device="cpu", trust=trust).save(new)
