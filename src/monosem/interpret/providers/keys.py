"""API keys: read from the environment or a keyring when they are needed, kept in memory, shown nowhere."""

import os

from monosem.errors import ProviderError

VARIABLES = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY", "compatible": "MONOSEM_API_KEY"}
SERVICE = "monosem"  # the service's name in a keyring; the user's name there is the provider's
HIDDEN = "[key]"


class Key:
    """A secret; printing it, or anything that holds it, does not show it."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return HIDDEN

    def reveal(self) -> str:
        """The secret itself, for the client that sends it."""
        return self._value

    def redact(self, text: str) -> str:
        """The text without the key, for errors that repeat what was sent."""
        return text.replace(self._value, HIDDEN) if self._value else text


def read_key(provider: str, *, needed: bool = True) -> Key:
    """The key for a provider: its variable in the environment, else the user's keyring.

    Raises:
        ProviderError: there is none, and it is needed.
    """
    variable = VARIABLES[provider]
    value = os.environ.get(variable, "").strip() or _from_keyring(provider)
    if not value and needed:
        raise ProviderError(
            f"no key for {provider}: set {variable} in the environment, or store one with: "
            f"keyring set {SERVICE} {provider}"
        )
    return Key(value)


def _from_keyring(provider: str) -> str:
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        return ""
    try:
        return (keyring.get_password(SERVICE, provider) or "").strip()
    except KeyringError:  # a machine without a keyring, or a locked one
        return ""
