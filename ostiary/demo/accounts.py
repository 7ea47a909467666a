"""Which account of this machine Postgres may run as, and what that account can reach."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Account:
    """An account of this machine."""

    name: str
    uid: int
    gid: int


def account_for_postgres() -> Account | None:
    """None: the one we run as. Postgres refuses to run as root; root's servers get the account of a Postgres that is
    installed anyway, or `nobody`. No account is made for it: a demo leaves nothing behind. Raises LookupError."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise LookupError(
        "Postgres does not run as root, and this machine has no account `nobody`; run as an ordinary user"
    )


def can_be_entered(directory: Path, account: Account) -> bool:
    """Whether `account` may search `directory` and all above it, by their permission bits."""
    resolved = directory.resolve()
    return all(_grants(part, account, stat.S_IXUSR) for part in (resolved, *resolved.parents))


def can_be_read(file: Path, account: Account) -> bool:
    """Whether `account` may read the existing `file`, and search the directories on the way to it."""
    resolved = file.resolve()
    return can_be_entered(resolved.parent, account) and _grants(resolved, account, stat.S_IRUSR)


def _grants(path: Path, account: Account, owner_bit: int) -> bool:
    status = path.stat()
    if status.st_uid == account.uid:
        return bool(status.st_mode & owner_bit)
    if status.st_gid == account.gid:
        return bool(status.st_mode & (owner_bit >> 3))
    return bool(status.st_mode & (owner_bit >> 6))
