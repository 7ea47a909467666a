"""From the configuration to KEKs that can be used."""

from __future__ import annotations

from ostiary.core.encryption import KeyWrappers, LocalKeyWrapper, NamedKeyWrapper
from ostiary.core.model import KeyEncryption, VaultTransit


class CannotUseKeyEncryption(Exception):
    """A KEK can't be used by this installation; the text says which and what to do."""


def key_wrappers(settings: KeyEncryption) -> KeyWrappers:
    """Asks nobody: whether a service answers shows when it is needed. Raises CannotUseKeyEncryption."""
    return KeyWrappers({name: _wrapper(name, kek) for name, kek in settings.keys.items()}, current=settings.current)


def _wrapper(name: str, kek: bytes | VaultTransit) -> NamedKeyWrapper:
    if isinstance(kek, bytes):
        return LocalKeyWrapper(kek)
    try:
        from ostiary.key_encryption.vault import VaultKeyWrapper
    except ImportError as error:
        raise CannotUseKeyEncryption(
            f"stores.key_encryption_keys.keys.{name} is kept by Vault, for which hvac is needed: pip install 'ostiary[vault]'"
        ) from error
    return VaultKeyWrapper(name, kek)
