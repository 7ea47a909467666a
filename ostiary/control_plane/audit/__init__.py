"""The audit log: who changed what, from where, and what was refused; append-only and hash-chained.

api       the operations: reading it
service   the rules of reading
store     all its SQL; `AuditLog` is where `dispatch` writes
model     what goes out
verify    walks the chain and finds what was altered, removed, inserted or moved
"""

from ostiary.control_plane.audit.api import operations
from ostiary.control_plane.audit.service import Audit
from ostiary.control_plane.audit.store import AuditLog

__all__ = ["Audit", "AuditLog", "operations"]
