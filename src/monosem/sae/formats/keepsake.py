"""What monosem writes beside another format's own settings, so that an SAE comes back with all it knew.

Other libraries pass over the key; without it an SAE reads as theirs do. It decides no weight.
"""

import dataclasses
from typing import Any

from monosem.sae.formats.content import Settings
from monosem.sae.formats.plain import Labels, Plain

KEY = "monosem"


def keepsake(plain: Plain) -> dict[str, Any]:
    """The value of the key."""
    return {"sparsity": plain.sparsity, "k": plain.k, **dataclasses.asdict(plain.labels)}


def recalled(plain: Plain, settings: Settings) -> Plain:
    """The SAE with what stands under the key, as far as its weights agree.

    Raises:
        SaeError: a value there is of another kind.
    """
    kept = settings.part(KEY)
    if not kept.values:
        return plain
    prefixes = kept.values.get("prefixes")
    labels = Labels(
        kept.text("model"),
        kept.text("hook_point"),
        kept.text("target_hook_point"),
        kept.number("norm_threshold"),
        kept.number("target_norm_threshold"),
        tuple(prefixes) if isinstance(prefixes, list) else (),
    )
    sparsity, threshold = plain.sparsity, plain.threshold
    if sparsity == "jumprelu" and kept.text("sparsity") == "batchtopk" and threshold is not None:
        sparsity = "batchtopk" if bool((threshold == threshold[0]).all()) else sparsity
    k = kept.whole("k") if plain.k is None else plain.k
    return dataclasses.replace(plain, sparsity=sparsity, k=k, labels=labels)
