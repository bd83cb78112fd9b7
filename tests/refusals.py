"""Commands that refuse their arguments."""

from typing import Any

import pytest

from sb3_carracing.cli import main


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """Run a command in this process, which has to exit with status 2; return what it printed, `out` and `err`."""
    with pytest.raises(SystemExit) as exit_info:
        main(list(arguments))
    assert exit_info.value.code == 2
    return capsys.readouterr()
