"""Find the agent from which restarted ranks resume."""

import json
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from sb3_carracing.ppo.distributed import Group
from sb3_carracing.ppo.saving.archives import damage
from sb3_carracing.runs import BEST_AGENT, agents_of

RECORD = "job.json"
"""File in a run's folder of parameters that says which job the run belongs to."""


def launchers(group: Group) -> list[str]:
    """Return identifiers of this job's launchers, one per machine; all ranks get the same list."""
    pid = os.getppid()
    stat = Path(f"/proc/{pid}/stat")
    begun = stat.read_text().rpartition(")")[2].split()[19] if stat.is_file() else ""  # in a container ids come again
    return sorted(set(group.gather(f"{os.environ.get('TORCHELASTIC_RUN_ID')} {socket.gethostname()} {pid} {begun}")))


def restart() -> str:
    """Describe the current restart for a message, as in `Restart 1 of 3`; empty if this is the first start."""
    count, most = (os.environ.get(f"TORCHELASTIC_{name}", "0") for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return f"Restart {count} of {most}" if count != "0" else ""


def agent_of_job(parameters: Iterable[Path], job: list[str]) -> Path | None:
    """Return the newest readable checkpoint or last agent of a job, None if there is none.

    Args:
        parameters: the folders of parameters of the runs to look at.
        job: see `launchers`. A launcher that the job has lost, or got since, does not matter.
    """
    records = [folder / RECORD for folder in parameters if _is_of_job(folder / RECORD, job)]
    for record in sorted(records, key=lambda file: file.stat().st_mtime_ns, reverse=True):
        for agent in agents_of(record.parent.parent):
            if agent.name != BEST_AGENT and damage(agent) is None:
                return agent
    return None


def _is_of_job(record: Path, job: list[str]) -> bool:
    try:
        return bool(set(json.loads(record.read_text())["launchers"]) & set(job))
    except (OSError, ValueError, KeyError, TypeError):
        return False
