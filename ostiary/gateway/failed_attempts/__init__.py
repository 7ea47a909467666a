"""Who tries credentials that don't hold, too often, waits: `gate` decides it, `table` is what all workers of a node
count in."""

from ostiary.gateway.failed_attempts.gate import Barred, Gate
from ostiary.gateway.failed_attempts.table import TABLE_BYTES, AttemptTable

__all__ = ["TABLE_BYTES", "AttemptTable", "Barred", "Gate"]
