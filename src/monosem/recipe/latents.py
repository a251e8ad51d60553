"""The sections of a recipe that compare latents with each other and find order among one latent's examples."""

from pydantic import Field

from monosem.recipe.section import Count, Fraction, Section


class CoactivationRecipe(Section):
    """Which latents fire on the same tokens, and which point the same way."""

    prefix = "coactivation."

    partners: Count = 20
    """Partners kept for each latent by each measure, and neighbours by decoder cosine."""
    fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the sentences that are counted, drawn by hash. 1: every token of the store."""
    cluster_jaccard: Fraction = 0.1
    """Mean Jaccard index from which latents form a cluster."""
    cluster_cosine: Fraction = 0.4
    """Mean decoder cosine from which latents form a cluster."""


class GroupsRecipe(Section):
    """What a latent's examples have in common, and whether they fall into groups."""

    prefix = "groups."

    ngrams: Count = 12
    """Most over-represented terms kept for each latent."""
    similarity: Fraction = 0.1
    """Mean cosine of word vectors from which example sentences form a group."""
