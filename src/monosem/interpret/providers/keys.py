"""API keys: read from the environment or a keyring when they are needed, kept in memory, shown nowhere."""

import os

from monosem.errors import ProviderError

VARIABLES = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY", "compatible": "MONOSEM_API_KEY"}
SERVICE = "monosem"  # the service's name in a keyring; the user's name there is the provider's
HIDDEN = "[key]"


class Key:
    """The key for one provider; printing it, or anything that holds it, does not show it.

    Args:
        needed: whether to have none is an error.
    """

    def __init__(self, provider: str, *, needed: bool = True) -> None:
        self._provider, self._needed = provider, needed
        self._value: str | None = None

    def __repr__(self) -> str:
        return HIDDEN

    def reveal(self) -> str:
        """The secret itself, for the client that sends it: the variable in the environment, else the user's keyring.

        It is looked up the first time that it is needed: to plan needs none.

        Raises:
            ProviderError: there is none, and it is needed.
        """
        if self._value is None:
            variable = VARIABLES[self._provider]
            self._value = os.environ.get(variable, "").strip() or _from_keyring(self._provider)
        if self._needed and not self._value:
            raise ProviderError(
                f"no key for {self._provider}: set {VARIABLES[self._provider]} in the environment, or store one with: "
                f"keyring set {SERVICE} {self._provider}"
            )
        return self._value

    def redact(self, text: str) -> str:
        """The text without the key, for errors that repeat what was sent."""
        return text.replace(self._value, HIDDEN) if self._value else text


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
