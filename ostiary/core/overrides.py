"""Limits of one key that replace its plan's, as a document: what the control plane stores and gateways read.

    {"rate": {"requests": 50, "per": "minute", "burst": 100}, "limits": [{"requests": 10000, "per": "hour"}],
     "quotas": [{"requests": 1000000, "per": "month", "mode": "shadow", "refused": "charged"}], "concurrency": 20,
     "concurrency_mode": "shadow", "overage": "charge"}

The names are those of a plan in the configuration file. A part that is not there is the plan's; `mode` and `refused`, of any
limit, stand there when they are not the usual ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ostiary.core.limiting import CalendarQuota, SlidingWindow, TokenBucket
from ostiary.core.model import LimitMode, LimitOverride, Overage, Period, Quota, Rate, RefusedCalls, Window

SPAN_SECONDS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_SPANS: Final = {seconds: span for span, seconds in SPAN_SECONDS.items()}


def override_document(override: LimitOverride) -> dict[str, Any]:
    """What `read_override` reads."""
    document: dict[str, Any] = {}
    if (rate := override.rate) is not None:
        document["rate"] = {
            "requests": rate.requests,
            "per": _SPANS[rate.per_seconds],
            "burst": rate.burst,
            **_terms(rate),
        }
    if override.windows is not None:
        document["limits"] = [
            {"requests": window.requests, "per": _SPANS[window.window_seconds], **_terms(window)}
            for window in override.windows
        ]
    if override.quotas is not None:
        document["quotas"] = [
            {"requests": quota.requests, "per": quota.period.value, **_terms(quota)} for quota in override.quotas
        ]
    if override.concurrency is not None:
        document["concurrency"] = override.concurrency
    if override.concurrency_mode is not None:
        document["concurrency_mode"] = override.concurrency_mode.value
    if override.overage is not None:
        document["overage"] = override.overage.value
    return document


def read_override(document: Mapping[str, Any]) -> LimitOverride:
    """Raises ValueError for what is none, or can't be counted exactly."""
    try:
        rate, windows, quotas = document.get("rate"), document.get("limits"), document.get("quotas")
        overage, mode = document.get("overage"), document.get("concurrency_mode")
        override = LimitOverride(
            rate=None if rate is None else _rate(rate),
            windows=None if windows is None else tuple(map(_window, windows)),
            quotas=None if quotas is None else tuple(map(_quota, quotas)),
            concurrency=document.get("concurrency"),
            overage=None if overage is None else Overage(overage),
            concurrency_mode=None if mode is None else LimitMode(mode),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not the limits of a key: {error!r}") from error
    check_exact(override)
    return override


def _rate(document: Mapping[str, Any]) -> Rate:
    return Rate(document["requests"], SPAN_SECONDS[document["per"]], document["burst"], *_mode_and_refused(document))


def _window(document: Mapping[str, Any]) -> Window:
    return Window(document["requests"], SPAN_SECONDS[document["per"]], *_mode_and_refused(document))


def _quota(document: Mapping[str, Any]) -> Quota:
    return Quota(document["requests"], Period(document["per"]), *_mode_and_refused(document))


def _mode_and_refused(document: Mapping[str, Any]) -> tuple[LimitMode, RefusedCalls]:
    return LimitMode(document.get("mode", "enforce")), RefusedCalls(document.get("refused", "free"))


def _terms(limit: Rate | Window | Quota) -> dict[str, str]:
    terms = {}
    if limit.mode is not LimitMode.ENFORCE:
        terms["mode"] = limit.mode.value
    if limit.refused is not RefusedCalls.FREE:
        terms["refused"] = limit.refused.value
    return terms


def check_exact(override: LimitOverride) -> None:
    """Raises LimitOutOfRange, a ValueError, for a limit whose arithmetic is not exact."""
    if override.rate is not None:
        TokenBucket.of(override.rate)
    for window in override.windows or ():
        SlidingWindow.of(window)
    for quota in override.quotas or ():
        CalendarQuota.of(quota, Overage.BLOCK)
