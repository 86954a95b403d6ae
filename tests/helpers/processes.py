"""Processes, as the system knows them."""

from pathlib import Path


def runs(pid: str) -> bool:
    """Whether the process has not ended; one that nobody waits for (a container's) has."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
