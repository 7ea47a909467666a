"""`ostiary tokens`: those of programs."""

from __future__ import annotations

import click

from ostiary.cli.accounts import print_list
from ostiary.cli.client import Client, api_command, json_option, limit_option, segment
from ostiary.cli.members import ROLES, print_token
from ostiary.cli.users import PLATFORM_ROLES

COLUMNS = (
    "id",
    "name",
    "hint",
    "platform_role",
    "organization_id",
    "role",
    "state",
    "last_used_at",
    "expires_at",
    "created_by",
)


@click.group()
def tokens() -> None:
    """Tokens of programs that manage the platform or one organization, over the control-plane API.

    \b
    Example:
      export OSTIARY_OPERATOR_TOKEN=$(cat /etc/ostiary/operator-token)
      ostiary tokens create deploy --role operator --days 30
      ostiary tokens list
    """


@tokens.command("create")
@click.argument("name")
@click.option("--role", type=click.Choice((*PLATFORM_ROLES, *ROLES)), required=True, help="What it may.")
@click.option("--org", "--organization", "organization_id", metavar="ID", help="Where it may: for roles of members.")
@click.option("--days", type=int, default=90, show_default=True, help="After how many days it ends.")
@api_command
@json_option
def create(client: Client, name: str, role: str, organization_id: str | None, days: int, as_json: bool) -> None:
    """Create a token, and print it. It is shown this once and is nowhere else.

    \b
    Example:
      ostiary tokens create deploy --role operator --days 30
      ostiary tokens create "their backup" --org ID --role viewer
    """
    over_platform = role in PLATFORM_ROLES
    if over_platform == (organization_id is not None):
        raise click.UsageError(
            f"{role} is a role over the platform: leave --org out" if over_platform else f"{role} needs --org"
        )
    document = {
        "name": name,
        "platform_role": role if over_platform else None,
        "role": None if over_platform else role,
        "organization_id": organization_id,
        "expires_in_days": days,
    }
    print_token(client.post("/platform-tokens", document), as_json=as_json)


@tokens.command("list")
@api_command
@limit_option
@json_option
def list_tokens(client: Client, limit: int, as_json: bool) -> None:
    """List tokens, the newest first; revoked and expired ones too.

    \b
    Example:
      ostiary tokens list
    """
    print_list(client.items("/platform-tokens", {}, limit=limit), COLUMNS, as_json=as_json)


@tokens.command("revoke")
@click.argument("token_id")
@api_command
def revoke(client: Client, token_id: str) -> None:
    """Revoke a token, for ever. In force with its next call.

    \b
    Example:
      ostiary tokens revoke TOKEN_ID
    """
    client.delete(f"/platform-tokens/{segment(token_id)}")
