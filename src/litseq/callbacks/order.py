"""The order in which a trainer calls its callbacks."""

from lightning.pytorch import Callback, Trainer


def come_before(trainer: Trainer, callback: Callback, kind: type[Callback]) -> None:
    """Move a callback in front of the first one of a kind, if it stands behind it."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set where mypy does not look
    place = next((i for i, other in enumerate(callbacks) if isinstance(other, kind)), None)
    if place is not None and place < callbacks.index(callback):
        callbacks.remove(callback)
        callbacks.insert(place, callback)
