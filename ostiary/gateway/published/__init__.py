"""Routes that the control plane publishes, as one node follows them. All of it runs in the supervisor: no worker knows where
its routes are from, and none waits for Postgres.

beginning  which version a start begins with: Postgres's, or the last good one
follower   hears of versions, brings them in force, tells which one this node runs
last_good  the snapshot on disk
store      all its SQL
"""

from ostiary.gateway.published.beginning import Beginning, CannotBegin, begin
from ostiary.gateway.published.follower import Follower
from ostiary.gateway.published.last_good import LastGood, SnapshotUnusable

__all__ = ["Beginning", "CannotBegin", "Follower", "LastGood", "SnapshotUnusable", "begin"]
