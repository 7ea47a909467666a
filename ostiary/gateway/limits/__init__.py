"""Is there budget? All limits of a request, its quota and its nonce, decided by one Lua call.

`policy` compiles the limits of a plan on a route at load. `limiter` collects requests into a `batch`, tells it to the
`script` over the `connection` that the `link` keeps, and hands out each `decision`; `leases` are the calls under way,
`settling` is what they turn out to cost. On a Redis Cluster `cluster` asks by `slots` of the `masters`, and `crossing` what
concerns several of them; `sentinel` finds the master that Sentinels know. `alone` decides while Redis is away, from `local`
counters and `nonces` in the memory of the node; `nodes` counts, while it is there, the nodes that then share the limits.
Of leased limits workers spend `slices` by themselves, which are taken as `slicing` says and given back (`returning`).
`shadows` tells what limits in shadow would have refused, `quota_events` how much of a quota is used."""

from ostiary.gateway.limits.decision import Decision, LimiterObserver, Outcome, UnobservedLimiter
from ostiary.gateway.limits.limiter import Limiter
from ostiary.gateway.limits.policy import LimitPolicy, compile_policy
from ostiary.gateway.limits.quota_events import QuotaEvents, QuotaReached
from ostiary.gateway.limits.settling import Charge

__all__ = [
    "Charge",
    "Decision",
    "LimitPolicy",
    "Limiter",
    "LimiterObserver",
    "Outcome",
    "QuotaEvents",
    "QuotaReached",
    "UnobservedLimiter",
    "compile_policy",
]
