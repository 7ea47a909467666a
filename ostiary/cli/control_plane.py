"""`ostiary control-plane`: the API."""

from __future__ import annotations

from pathlib import Path

import click

from ostiary.cli.configuration import BadConfiguration, config_option, read_configuration
from ostiary.cli.memory import keep_off_disk


@click.command("control-plane")
@config_option
def control_plane(config_path: str) -> None:
    """Run the control-plane API, until SIGTERM or Ctrl-C; calls under way are finished first.

    Every call needs the operator token of the configuration (control_plane.operator_token). The schema must be current: run
    `ostiary db migrate` first. /docs explains the API.

    \b
    Example:
      export OSTIARY_OPERATOR_TOKEN=$(openssl rand -base64 32)
      ostiary db migrate -c gateway.yaml && ostiary control-plane -c gateway.yaml
    """
    from ostiary.control_plane.app import SettingsRefused, StartRefused, run
    from ostiary.control_plane.db import DatabaseUnavailable
    from ostiary.control_plane.log import configure_logging
    from ostiary.tls import CertificateRefused

    keep_off_disk()
    configuration = read_configuration(config_path)
    configure_logging()
    try:
        run(configuration, Path(config_path))
    except (SettingsRefused, CertificateRefused) as error:
        raise BadConfiguration(str(error)) from error
    except (StartRefused, DatabaseUnavailable) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        listen = configuration.control_plane.listen
        raise click.ClickException(
            f"can't listen on {listen.host}:{listen.port}: {error.strerror}; see control_plane.listen"
        ) from error
