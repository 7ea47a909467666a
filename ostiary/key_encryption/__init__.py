"""The key-encryption keys as configured, for both planes: `wrappers` makes them of the configuration, `vault` is one that
Vault Transit keeps, `vault_token` how we prove to Vault who we are, `calls` how an event loop asks a
service that makes it wait.

The format of what they wrap, and KEKs in this process, are `core.encryption`."""

from ostiary.key_encryption.calls import BoundedCalls
from ostiary.key_encryption.wrappers import CannotUseKeyEncryption, key_wrappers

__all__ = ["BoundedCalls", "CannotUseKeyEncryption", "key_wrappers"]
