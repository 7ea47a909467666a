"""Is there budget? All limits of a request, its quota and its nonce, decided by one Lua call.

`policy` compiles the limits of a plan on a route at load; `limiter` batches requests, sends them over `connection` and hands
out each `decision`; `local` and `nonces` are what decides while Redis is away. The script is lua/decide.lua, its
arithmetic ostiary/core/limiting.py."""

from ostiary.gateway.limits.decision import Decision, LimiterObserver, Outcome, UnobservedLimiter
from ostiary.gateway.limits.limiter import Limiter
from ostiary.gateway.limits.policy import LimitPolicy, compile_policy

__all__ = ["Decision", "LimitPolicy", "Limiter", "LimiterObserver", "Outcome", "UnobservedLimiter", "compile_policy"]
