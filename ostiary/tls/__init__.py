"""TLS as the configuration has it, for both planes: `towards_clients` makes what a listener shows and asks for, `openssl`
hands OpenSSL what was read with the configuration."""

from ostiary.tls.openssl import CertificateRefused, load_authorities, load_pair
from ostiary.tls.towards_clients import server_context

__all__ = ["CertificateRefused", "load_authorities", "load_pair", "server_context"]
