"""The stage `activations/HOOK`: the language model's activations on the sentences, in shards of whole sentences.

Flow: sentences are cut into units of a fixed number (`units`), one shard a hook point each. A unit is tokenised, packed
by length, read by the model once for all hook points (`reading`), and handed to threads that filter and write it while
the model reads the next (`writing`). A unit's bytes depend on its number alone: whichever rank takes it, an interrupted
stage goes on with those that are missing (`stage`). Knows nothing of what is done with activations.
"""

from monosem.capture.stage import make
from monosem.capture.units import Unit, units
from monosem.store.activations import open_stage

__all__ = ["Unit", "make", "open_stage", "units"]
