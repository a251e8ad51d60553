"""Training straight from the language model: no activation is ever written to a disk.

Flow: training sentences in a random order are cut into windows by their tokens alone; the model reads a window into one
half of a preallocated ring (`reading`, `ring`); batches are drawn from it and from what is left of the window before.
`source` hands all that to training. What is in the ring follows from the place in the order of sentences, so that a
resumed training reads two windows again and goes on with the same bytes.
"""

from monosem.live.source import Live

__all__ = ["Live"]
