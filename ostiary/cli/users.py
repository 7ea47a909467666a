"""`ostiary users` and `ostiary sign-in`."""

from __future__ import annotations

import click

from ostiary.cli.accounts import print_list
from ostiary.cli.client import Client, api_command, json_option, limit_option, open_command, segment
from ostiary.cli.members import print_token

COLUMNS = ("id", "email", "name", "platform_role", "disabled_at", "created_at")
PLATFORM_ROLES = ("operator", "auditor")


@click.group()
def users() -> None:
    """Users, over the control-plane API.

    \b
    Example:
      export OSTIARY_OPERATOR_TOKEN=$(cat /etc/ostiary/operator-token)
      ostiary users invite rosa@example.com --role operator
      ostiary users list
    """


@users.command("list")
@api_command
@limit_option
@json_option
def list_users(client: Client, limit: int, as_json: bool) -> None:
    """List users, newest first.

    \b
    Example:
      ostiary users list
    """
    print_list(client.items("/users", {}, limit=limit), COLUMNS, as_json=as_json)


@users.command("invite")
@click.argument("email")
@click.option("--role", type=click.Choice(PLATFORM_ROLES), help="A role over all organizations; none if not given.")
@api_command
@json_option
def invite(client: Client, email: str, role: str | None, as_json: bool) -> None:
    """Invite somebody into the platform, and print the invitation's token.

    Send it to them, and to nobody else: whoever has it becomes a user by this address. It holds for seven days. This is how
    the first operator comes about.

    \b
    Example:
      ostiary users invite rosa@example.com --role operator
    """
    print_token(client.post("/invitations", {"email": email, "platform_role": role}), as_json=as_json)


@users.command("accept")
@click.option("--name", required=True, help="Your name, for people.")
@open_command
def accept(client: Client, name: str) -> None:
    """Become a user by an invitation. Asks for its token and for a password.

    \b
    Example:
      ostiary users accept --name "Rosa Diaz"
    """
    token = click.prompt("Token of the invitation", hide_input=True)
    password = click.prompt("Password (12 characters or more)", hide_input=True, confirmation_prompt=True)
    accepted = client.post("/invitations/accept", {"token": token, "name": name, "password": password})
    click.echo(accepted["user"]["id"])


@users.command("set-role")
@click.argument("user_id")
@click.argument("role", type=click.Choice((*PLATFORM_ROLES, "none")))
@api_command
def set_role(client: Client, user_id: str, role: str) -> None:
    """Give a user a role over the platform, or none. In force with their next call.

    \b
    Example:
      ostiary users set-role USER_ID auditor
    """
    client.patch(f"/users/{segment(user_id)}", {"platform_role": None if role == "none" else role})


@users.command("disable")
@click.argument("user_id")
@api_command
def disable(client: Client, user_id: str) -> None:
    """Disable a user: their sessions and tokens end at once.

    \b
    Example:
      ostiary users disable USER_ID
    """
    client.patch(f"/users/{segment(user_id)}", {"disabled": True})


@users.command("enable")
@click.argument("user_id")
@api_command
def enable(client: Client, user_id: str) -> None:
    """Let a user who was disabled sign in again.

    \b
    Example:
      ostiary users enable USER_ID
    """
    client.patch(f"/users/{segment(user_id)}", {"disabled": False})


@click.command("sign-in")
@click.argument("email")
@open_command
def sign_in(client: Client, email: str) -> None:
    """Print an access token, good for 15 minutes. Asks for the password.

    Nothing is kept on this machine. For programs, make a token with `ostiary tokens create`.

    \b
    Example:
      export OSTIARY_TOKEN=$(ostiary sign-in rosa@example.com)
      ostiary orgs list
    """
    password = click.prompt("Password", hide_input=True, err=True)
    click.echo(client.post("/access-tokens", {"email": email, "password": password})["access_token"])
