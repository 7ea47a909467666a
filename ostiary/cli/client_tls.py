"""TLS towards the control plane: whose certificates it may have, and the one that we show."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import click

from ostiary.tls import context_towards_servers


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. Without `authorities`, those of the system are trusted; without `certificate`, none is shown. `key` is the
    certificate's, None if it stands in the same file."""

    authorities: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Raises click.UsageError, which names the option and never quotes the file."""
        if self.key is not None and self.certificate is None:
            raise click.UsageError("--client-key is the key of --client-certificate, which is not given")
        try:
            context = context_towards_servers(self.authorities)
        except OSError as error:  # ssl.SSLError is one
            raise click.UsageError(f"--ca can't be used: {_reason(error)}") from error
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key, password=_refuse_to_ask)
            except OSError as error:
                raise click.UsageError(
                    f"--client-certificate can't be used with its key: {_reason(error)}; both are PEM files"
                ) from error
        return context


def _refuse_to_ask() -> str:
    # OpenSSL would ask the terminal, and a script would wait for ever.
    raise click.UsageError(
        "--client-key is encrypted, and nobody is asked for a passphrase: openssl pkey -in KEY -out PLAIN"
    )


def _reason(error: OSError) -> str:
    return error.reason if isinstance(error, ssl.SSLError) and error.reason else error.strerror or type(error).__name__
