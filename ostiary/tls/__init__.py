"""TLS as the configuration has it, for both planes: `towards_clients` makes what a listener shows and asks for,
`towards_servers` verifies whom we call, `openssl` hands OpenSSL what was read with the configuration."""

from ostiary.tls.openssl import CertificateRefused, load_authorities, load_pair
from ostiary.tls.towards_clients import server_context
from ostiary.tls.towards_servers import configured_context, context_towards_servers, verifying_context

__all__ = [
    "CertificateRefused",
    "configured_context",
    "context_towards_servers",
    "load_authorities",
    "load_pair",
    "server_context",
    "verifying_context",
]
