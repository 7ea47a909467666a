"""`ostiary`: the commands, loaded when they are used, so that `--help` is quick and a gateway imports no control plane."""

from __future__ import annotations

from importlib import import_module

import click

from ostiary import __version__

# command: (module, attribute, one line for `ostiary --help`)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": ("ostiary.cli.demo", "demo", "Run everything on this machine, with nothing else installed."),
    "gateway": ("ostiary.cli.gateway", "gateway", "Run the data plane: supervisor and workers."),
    "control-plane": ("ostiary.cli.control_plane", "control_plane", "Run the control-plane API."),
    "config": ("ostiary.cli.config", "config", "Check, explain and compare configuration files."),
    "db": ("ostiary.cli.db", "db", "Migrate the Postgres schema."),
    "orgs": ("ostiary.cli.members", "orgs", "Organizations and their members, over the control-plane API."),
    "users": ("ostiary.cli.users", "users", "Users and invitations, over the control-plane API."),
    "tokens": ("ostiary.cli.tokens", "tokens", "Tokens of programs, over the control-plane API."),
    "sign-in": ("ostiary.cli.users", "sign_in", "Print an access token, for a password."),
    "apps": ("ostiary.cli.accounts", "apps", "Apps, over the control-plane API."),
    "keys": ("ostiary.cli.keys", "keys", "Keys, over the control-plane API."),
    "plans": ("ostiary.cli.plans", "plans", "Plans, over the control-plane API."),
    "routes": ("ostiary.cli.routes", "routes", "Publish routes to all gateways, over the control-plane API."),
    "usage": ("ostiary.cli.usage", "usage", "Usage per day; reconcile what was metered."),
    "audit": ("ostiary.cli.audit", "audit", "Who changed what; verify that the log was not touched."),
    "events": ("ostiary.cli.events", "events", "What happened that others may want to hear of."),
    "sign": ("ostiary.cli.sign", "sign", "Print the headers, or a curl line, that sign a request."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101  a programming error, not an input
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ostiary")
def main() -> None:
    """Ostiary, an API gateway: keys, exact limits, metering that reconciles.

    \b
    Example:
      ostiary demo
      ostiary config check gateway.yaml && ostiary gateway -c gateway.yaml

    \b
    Completion (bash; zsh and fish likewise):
      eval "$(_OSTIARY_COMPLETE=bash_source ostiary)"
    """
