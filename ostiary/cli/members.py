"""`ostiary orgs members`, `invite` and what belongs to them."""

from __future__ import annotations

import json

import click

from ostiary.cli.accounts import orgs, print_list
from ostiary.cli.client import Client, Document, api_command, json_option, limit_option, segment

MEMBER_COLUMNS = ("id", "email", "name", "role", "disabled", "created_at")
INVITATION_COLUMNS = ("id", "email", "role", "platform_role", "state", "invited_by", "expires_at")
ROLES = ("viewer", "developer", "admin", "owner")


def print_token(document: Document, *, as_json: bool) -> None:
    """The token alone on standard output, and what it is on standard error; or all of it as JSON."""
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(document["token"])
    click.echo(f"{document['id']}, until {document['expires_at']}. The token is shown this once.", err=True)


@orgs.command("rename")
@click.argument("organization_id")
@click.argument("name")
@api_command
def rename(client: Client, organization_id: str, name: str) -> None:
    """Give an organization another name.

    \b
    Example:
      ostiary orgs rename ID "Acme Ltd"
    """
    client.patch(f"/organizations/{segment(organization_id)}", {"name": name})


@orgs.command("delete")
@click.argument("organization_id")
@api_command
def delete(client: Client, organization_id: str) -> None:
    """Delete an organization that has no apps, with its memberships, invitations and tokens.

    \b
    Example:
      ostiary orgs delete ID
    """
    client.delete(f"/organizations/{segment(organization_id)}")


@orgs.command("members")
@click.argument("organization_id")
@api_command
@limit_option
@json_option
def list_members(client: Client, organization_id: str, limit: int, as_json: bool) -> None:
    """List the members of an organization, the newest first.

    \b
    Example:
      ostiary orgs members ID
    """
    path = f"/organizations/{segment(organization_id)}/members"
    print_list(client.items(path, {}, limit=limit), MEMBER_COLUMNS, as_json=as_json)


@orgs.command("set-role")
@click.argument("organization_id")
@click.argument("user_id")
@click.argument("role", type=click.Choice(ROLES))
@api_command
def set_role(client: Client, organization_id: str, user_id: str, role: str) -> None:
    """Give a member another role, up to your own. In force with their next call.

    \b
    Example:
      ostiary orgs set-role ID USER_ID admin
    """
    client.patch(f"/organizations/{segment(organization_id)}/members/{segment(user_id)}", {"role": role})


@orgs.command("remove-member")
@click.argument("organization_id")
@click.argument("user_id")
@api_command
def remove_member(client: Client, organization_id: str, user_id: str) -> None:
    """Remove a member. In force with their next call.

    \b
    Example:
      ostiary orgs remove-member ID USER_ID
    """
    client.delete(f"/organizations/{segment(organization_id)}/members/{segment(user_id)}")


@orgs.command("invite")
@click.argument("organization_id")
@click.argument("email")
@click.option("--role", type=click.Choice(ROLES), default="viewer", show_default=True, help="Up to your own.")
@api_command
@json_option
def invite(client: Client, organization_id: str, email: str, role: str, as_json: bool) -> None:
    """Invite somebody into an organization, and print the invitation's token.

    Send it to them, and to nobody else: whoever has it becomes a user by this address. It holds for seven days.

    \b
    Example:
      ostiary orgs invite ID rosa@example.com --role owner
    """
    path = f"/organizations/{segment(organization_id)}/invitations"
    print_token(client.post(path, {"email": email, "role": role}), as_json=as_json)


@orgs.command("invitations")
@click.argument("organization_id")
@api_command
@limit_option
@json_option
def list_invitations(client: Client, organization_id: str, limit: int, as_json: bool) -> None:
    """List the invitations into an organization, the newest first.

    \b
    Example:
      ostiary orgs invitations ID
    """
    path = f"/organizations/{segment(organization_id)}/invitations"
    print_list(client.items(path, {}, limit=limit), INVITATION_COLUMNS, as_json=as_json)


@orgs.command("revoke-invitation")
@click.argument("invitation_id")
@api_command
def revoke_invitation(client: Client, invitation_id: str) -> None:
    """Revoke an invitation; revoking it again changes nothing.

    \b
    Example:
      ostiary orgs revoke-invitation INVITATION_ID
    """
    client.delete(f"/invitations/{segment(invitation_id)}")
