"""What is in the memory of a process that knows secrets does not go to disk with it."""

from __future__ import annotations

import resource


def keep_off_disk() -> None:
    """No core dump of this process, nor of those that it starts, whatever the machine's default is: memory has every signing
    secret in use. The hard limit stays, so that an operator who wants one can allow it: `prlimit --core=unlimited
    --pid PID`."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
