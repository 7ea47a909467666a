"""`ostiary keys limits`."""

from __future__ import annotations

import json
from typing import Any

import click

from ostiary.cli.client import Client, Document, api_command, json_option, segment
from ostiary.cli.limit_options import TERMS, calls, rate


@click.group("limits")
def limits() -> None:
    """Limits of one key in place of its plan's, part by part. In force within a second.

    \b
    Example:
      ostiary keys limits set ak_live_… --limit 20000/hour --concurrency 20 --reason "launch week"
      ostiary keys limits show ak_live_…
      ostiary keys limits remove ak_live_… --reason "launch is over"
    """


@limits.command("set")
@click.argument("key_id")
@click.option("--rate", type=rate, metavar="N/SPAN[+BURST]", help="Token bucket, as in 100/minute+600.")
@click.option(
    "--limit",
    "limits",
    type=calls,
    multiple=True,
    metavar="N/SPAN",
    help="Sliding window, as in 5000/hour; behind it ,shadow to try it out, ,charged to count refused calls. Repeatable.",
)
@click.option("--no-limits", is_flag=True, help="No sliding window, whatever the plan says.")
@click.option(
    "--quota", "quotas", type=calls, multiple=True, metavar="N/PERIOD", help="As in 1000000/month. Repeatable."
)
@click.option("--no-quotas", is_flag=True, help="No quota, whatever the plan says.")
@click.option("--concurrency", type=int, metavar="N", help="Calls under way at once.")
@click.option("--concurrency-mode", type=click.Choice(["enforce", "shadow"]), help="Whether that bound refuses.")
@click.option("--overage", type=click.Choice(["block", "warn", "charge"]), help="What happens past a quota.")
@click.option("--reason", required=True, help="Why, for the people who will ask.")
@api_command
@json_option
def set_limits(
    client: Client,
    key_id: str,
    limits: tuple[dict[str, object], ...],
    no_limits: bool,
    quotas: tuple[dict[str, object], ...],
    no_quotas: bool,
    as_json: bool,
    **parts: object,
) -> None:
    """Replace parts of a key's plan for this key alone. What is not given is as the plan has it, whatever was set before.

    \b
    Example:
      ostiary keys limits set ak_live_… --rate 100/minute+600 --quota 2000000/month --reason "contract 2027"
      ostiary keys limits set ak_live_… --limit 50000/hour --limit 20000/hour,shadow --reason "would 20000 do?"
    """
    if (limits and no_limits) or (quotas and no_quotas):
        raise click.UsageError("give limits, or --no-limits; quotas, or --no-quotas")
    document = {
        **parts,
        "limits": list(limits) if limits or no_limits else None,
        "quotas": list(quotas) if quotas or no_quotas else None,
    }
    _print_limits(client.put(f"/keys/{segment(key_id)}/limits", document), as_json=as_json)


@limits.command("show")
@click.argument("key_id")
@api_command
@json_option
def show_limits(client: Client, key_id: str, as_json: bool) -> None:
    """Show what holds for a key in place of its plan's limits, and who set it when and why.

    \b
    Example:
      ostiary keys limits show ak_live_…
    """
    _print_limits(client.get(f"/keys/{segment(key_id)}/limits"), as_json=as_json)


@limits.command("remove")
@click.argument("key_id")
@click.option("--reason", required=True, help="Why, for the people who will ask.")
@api_command
@json_option
def remove_limits(client: Client, key_id: str, reason: str, as_json: bool) -> None:
    """Go back to the limits of the key's plan.

    \b
    Example:
      ostiary keys limits remove ak_live_… --reason "launch is over"
    """
    _print_limits(client.delete(f"/keys/{segment(key_id)}/limits", {"reason": reason}), as_json=as_json)


def _print_limits(found: Document, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    plan = f"plan {found['plan']}" if found["plan"] else "no plan"
    click.echo(f"{found['key_id']}  {plan}")
    for name in ("rate", "limits", "quotas", "concurrency", "overage"):
        in_shadow = ",shadow" if name == "concurrency" and found["concurrency_mode"] == "shadow" else ""
        click.echo(f"{name:<12} {_shown(found[name])}{in_shadow}")
    if found["changed_at"] is not None:
        click.echo(f"changed {found['changed_at']} by {found['changed_by']}: {found['reason']}")


def _shown(part: Any) -> str:
    match part:
        case None:
            return "as in the plan"
        case []:
            return "none"
        case list():
            return ", ".join(_shown(each) for each in part)
        case {"requests": requests, "per": per}:
            burst = f"+{part['burst']}" if "burst" in part else ""
            terms = [term for term, meant in TERMS.items() if meant.items() <= part.items()]
            return ",".join([f"{requests}/{per}{burst}", *terms])
        case _:
            return str(part)
