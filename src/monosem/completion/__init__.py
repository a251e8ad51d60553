"""Text and chat completion by a run's language model, steered by its SAE's latents, with what the latents see in it.

`Completer.stream` is the one core, told in `Event`s; `Conversation` keeps the turns of a chat; `SteeringSet` is what a
file of edits holds; `read` and `concept` look at a text that is there already.
"""

from monosem.completion.completer import Completer
from monosem.completion.conversation import Conversation
from monosem.completion.events import (
    ActiveLatent,
    Began,
    Completion,
    Ended,
    Event,
    Prompt,
    Read,
    Row,
    WrittenToken,
    Wrote,
)
from monosem.completion.reading import concept, read
from monosem.completion.steering_set import SteeringSet

__all__ = [
    "ActiveLatent",
    "Began",
    "Completer",
    "Completion",
    "Conversation",
    "Ended",
    "Event",
    "Prompt",
    "Read",
    "Row",
    "SteeringSet",
    "WrittenToken",
    "Wrote",
    "concept",
    "read",
]
