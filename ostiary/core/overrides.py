"""Limits of one key that replace its plan's, as a document: what the control plane stores and gateways read.

    {"rate": {"requests": 50, "per": "minute", "burst": 100}, "limits": [{"requests": 10000, "per": "hour"}],
     "quotas": [{"requests": 1000000, "per": "month"}], "concurrency": 20, "overage": "charge"}

The names are those of a plan in the configuration file. A part that is not there is the plan's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ostiary.core.limiting import CalendarQuota, SlidingWindow, TokenBucket
from ostiary.core.model import LimitOverride, Overage, Period, Quota, Rate, Window

SPAN_SECONDS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_SPANS: Final = {seconds: span for span, seconds in SPAN_SECONDS.items()}


def override_document(override: LimitOverride) -> dict[str, Any]:
    """What `read_override` reads."""
    document: dict[str, Any] = {}
    if (rate := override.rate) is not None:
        document["rate"] = {"requests": rate.requests, "per": _SPANS[rate.per_seconds], "burst": rate.burst}
    if override.windows is not None:
        document["limits"] = [
            {"requests": window.requests, "per": _SPANS[window.window_seconds]} for window in override.windows
        ]
    if override.quotas is not None:
        document["quotas"] = [{"requests": quota.requests, "per": quota.period.value} for quota in override.quotas]
    if override.concurrency is not None:
        document["concurrency"] = override.concurrency
    if override.overage is not None:
        document["overage"] = override.overage.value
    return document


def read_override(document: Mapping[str, Any]) -> LimitOverride:
    """Raises ValueError for what is none, or can't be counted exactly."""
    try:
        rate, windows, quotas = document.get("rate"), document.get("limits"), document.get("quotas")
        overage = document.get("overage")
        override = LimitOverride(
            rate=None if rate is None else Rate(rate["requests"], SPAN_SECONDS[rate["per"]], rate["burst"]),
            windows=None if windows is None else tuple(Window(w["requests"], SPAN_SECONDS[w["per"]]) for w in windows),
            quotas=None if quotas is None else tuple(Quota(q["requests"], Period(q["per"])) for q in quotas),
            concurrency=document.get("concurrency"),
            overage=None if overage is None else Overage(overage),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not the limits of a key: {error!r}") from error
    check_exact(override)
    return override


def check_exact(override: LimitOverride) -> None:
    """Raises LimitOutOfRange, a ValueError, for a limit whose arithmetic is not exact."""
    if override.rate is not None:
        TokenBucket.of(override.rate)
    for window in override.windows or ():
        SlidingWindow.of(window)
    for quota in override.quotas or ():
        CalendarQuota.of(quota, Overage.BLOCK)
