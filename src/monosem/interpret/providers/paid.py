"""Whether a folder holds answers that were paid for: these are never deleted, since they would be paid for again."""

from pathlib import Path

from monosem.errors import RunError
from monosem.interpret.providers.ledger import Ledger
from monosem.interpret.providers.prices import OWN_MACHINE


def keep(folder: Path, provider: str | None, redo: str) -> None:
    """Refuse what would delete them.

    Args:
        folder: it holds the ledger, if anything was ever asked.
        provider: that was asked; None if that is not known: it may have cost money.
        redo: the stage that is to be made again.

    Raises:
        RunError: the provider costs money, and has been sent something.
        ProviderError: the ledger was edited.
    """
    if provider not in OWN_MACHINE and any(event.kind == "intent" for event in Ledger(folder).events):
        raise RunError(
            f"{folder}: holds answers that {provider or 'a provider'} was asked for, and --redo {redo} would delete "
            f"them; move the folder away first, or give the new run its own --name"
        )
