"""Any causal language model of transformers behind `monosem.lm.protocol.LanguageModel`.

The model runs as transformers wrote it, on one row of packed tokens with their positions; attention is ours
(`attention`), and so are the hook points (`passes`). On making it, a few tokens are sent through and what comes by is
checked: hook points in order, residual stream the sum of its parts, attention through our function.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from monosem.errors import ModelError
from monosem.lm.cache import KVCache
from monosem.lm.config import ModelConfig
from monosem.lm.generate import Sampling, Step, generate
from monosem.lm.hookpoints import RESIDUAL, HookPoint
from monosem.lm.hooks import Hook, Hooks, Watcher, stack
from monosem.lm.huggingface import gradient, sites, trial
from monosem.lm.huggingface.attention import ATTENTION, Attention, SentenceAttention, StepAttention
from monosem.lm.huggingface.passes import RUNNING, Finished, Pass, instrument
from monosem.lm.packed import Packed
from monosem.lm.tail import Divergence
from monosem.lm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class HuggingFaceModel:
    """A transformers model; its methods are described in `monosem.lm.protocol.LanguageModel`.

    Args:
        model: an `AutoModelForCausalLM` whose attention is `attention.NAME`; it is instrumented and belongs to this.

    Raises:
        ModelError: the hook points are not found in it, or are not where its family has them.
    """

    def __init__(self, model: "PreTrainedModel", tokenizer: Tokenizer, name: str):
        self._model: Any = model.eval().requires_grad_(False)
        self._tree = sites.find(model)
        self.config = shape(model, self._tree.blocks[0].get_submodule(self._tree.layout.attn_norm))
        self.tokenizer = tokenizer
        self.name = name
        self._hooks: Hooks = {}
        instrument(self._tree)
        self._try_out()

    @torch.no_grad()
    def _try_out(self) -> None:
        points = trial.points(self._tree)
        packed = trial.sentences(self.config, self.device)
        attention, watcher = trial.Counted(SentenceAttention(packed)), self._watcher(points)
        self._run(packed, attention, Pass(watcher))
        trial.check(self._model, self._tree, self.config, watcher.captured, attention)

    @property
    def device(self) -> torch.device:
        return self._model.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self._model.get_input_embeddings().weight.dtype

    @torch.no_grad()
    def logits(self, packed: Packed) -> Tensor:
        return self._logits(self._checked(packed), Pass(self._watcher()))

    @torch.no_grad()
    def activations(
        self, packed: Packed, hook_points: Sequence[str], start: tuple[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        points = {name: self._point(name).canonical for name in hook_points}
        packed = self._checked(packed)
        watcher = self._watcher(points.values())
        begun = self._begun(packed, watcher, start)
        if not packed.n_tokens:
            return {name: self._nothing(point.width(self.config)) for name, point in points.items()}
        self._run(packed, SentenceAttention(packed), begun)
        return {name: watcher.captured[point] for name, point in points.items()}

    @torch.no_grad()
    def resume(self, hook_point: str, activations: Tensor, packed: Packed) -> Tensor:
        packed = self._checked(packed)
        return self._logits(packed, self._begun(packed, self._watcher(), (hook_point, activations)))

    def kl_gradient(self, hook_point: str, x: Tensor, x_hat: Tensor, packed: Packed) -> Divergence:
        point, packed = self._point(hook_point).canonical, self._checked(packed)
        if point.norm and point.site not in RESIDUAL:
            raise ModelError(f"{hook_point}: there is no gradient from here; use {point.layer}.{point.site}")

        def predict(part: Packed, values: Tensor) -> Tensor:
            instead = Watcher({point: [lambda _: values]}, (), self.config.norm_eps)
            return self._logits(part, Pass(instead))

        gradient.check_shapes(x, x_hat, packed, point.width(self.config))
        edited = x_hat.to(self.device, self.dtype)
        return gradient.kl_gradient(predict, self.config.vocab_size, x.to(edited), edited, packed)

    @contextlib.contextmanager
    def hooks(self, hooks: Mapping[str, Hook]) -> Iterator[None]:
        outer = self._hooks
        self._hooks = stack(outer, {self._point(name): fn for name, fn in hooks.items()})
        try:
            yield
        finally:
            self._hooks = outer

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int] | None = None
    ) -> Iterator[Step]:
        return generate(self, prompts, sampling, seeds)

    def decoder(self, rows: int, capacity: int) -> "CachedRows":
        """An empty decoder under the hooks active now (`monosem.lm.generate.Decoder`)."""
        hooks, eps = self._hooks, self.config.norm_eps

        @torch.no_grad()
        def run(packed: Packed, attention: Attention, wanted: Tensor) -> Tensor:
            logits = self._run(packed, attention, Pass(Watcher(hooks, (), eps)), wanted)
            assert logits is not None
            return logits

        return CachedRows(KVCache(self.config, rows, capacity, self.dtype, self.device), run)

    def _logits(self, packed: Packed, begun: Pass) -> Tensor:
        if not packed.n_tokens:
            return self._nothing(self.config.vocab_size).float()
        logits = self._run(packed, SentenceAttention(packed), begun)
        assert logits is not None
        return logits

    def _run(self, packed: Packed, attention: Attention, begun: Pass, rows: Tensor | None = None) -> Tensor | None:
        """The logits `[T, vocab]` fp32 of a pass, or those of `rows [R]`; None if it ended before.

        Transformers is told of no cache: `attention` keeps keys and values, if they are needed.
        """
        attending, running = ATTENTION.set(attention), RUNNING.set(begun)
        try:
            out = self._model(
                input_ids=packed.ids[None],
                position_ids=packed.position[None],
                use_cache=False,
                logits_to_keep=0 if rows is None else rows,
            )
        except Finished:
            return None
        finally:
            RUNNING.reset(running)
            ATTENTION.reset(attending)
        return out.logits[0].float()

    def _point(self, name: str) -> HookPoint:
        point = HookPoint.parse(name, self.config.n_layers)
        if point.site == "resid_mid" and self._tree.parallel:
            raise ModelError(
                f"hook point {name!r}: attention and MLP of {self.name} read the same residual stream side by side; "
                f"there is {point.layer}.resid_pre and {point.layer}.resid_post"
            )
        return point

    def _checked(self, packed: Packed) -> Packed:
        longest = int(packed.lengths.max()) if packed.n_sentences else 0
        if longest > self.config.context_length:
            raise ModelError(f"a sentence of {longest} tokens exceeds the context of {self.config.context_length}")
        return packed.to(self.device)

    def _begun(self, packed: Packed, watcher: Watcher, start: tuple[str, Tensor] | None) -> Pass:
        """A pass over whole sentences, from their tokens or from activations at a residual point."""
        if start is None:
            return Pass(watcher)
        name, activations = start
        point = self._point(name)
        if point.norm or point.site not in ("resid_pre", "resid_post"):
            raise ModelError(f"a pass resumes at L.resid_pre or L.resid_post, not at {name}")
        expected = (packed.n_tokens, self.config.d_model)
        if activations.shape != expected:
            raise ModelError(f"activations at {name} have shape {list(activations.shape)}, expected {list(expected)}")
        return Pass(watcher, point.layer + (point.site == "resid_post"), activations.to(self.device, self.dtype))

    def _watcher(self, wanted: Iterable[HookPoint] = ()) -> Watcher:
        return Watcher(self._hooks, wanted, self.config.norm_eps)

    def _nothing(self, width: int) -> Tensor:
        return torch.empty(0, width, device=self.device, dtype=self.dtype)


class CachedRows:
    """Next-token logits for rows that grow token by token (`monosem.lm.generate.Decoder`)."""

    def __init__(self, cache: KVCache, run: Callable[[Packed, Attention, Tensor], Tensor]):
        self._cache, self._run = cache, run

    def begin(self, prompts: Packed) -> Tensor:
        logits = self._run(prompts, SentenceAttention(prompts, self._cache), prompts.last)
        self._cache.lengths += prompts.lengths.to(self._cache.lengths.device)
        return logits

    def step(self, ids: Tensor) -> Tensor:
        attention = StepAttention(self._cache)
        rows = torch.arange(len(ids), device=ids.device)
        # each row's token is a sentence by itself, but for its position and for what it attends to
        logits = self._run(Packed(ids, attention.position, torch.arange(len(ids) + 1)), attention, rows)
        self._cache.lengths += 1
        return logits

    def keep(self, rows: Tensor) -> None:
        self._cache.keep(rows)


def shape(model: "PreTrainedModel", norm: nn.Module) -> ModelConfig:
    """The numbers of the model's shape, from its configuration; `norm`: any of its norms."""
    text: Any = model.config.get_text_config()
    embedding: Any = model.get_input_embeddings()
    n_heads, d_model = text.num_attention_heads, text.hidden_size
    return ModelConfig(
        d_model=d_model,
        n_layers=text.num_hidden_layers,
        n_heads=n_heads,
        n_kv_heads=getattr(text, "num_key_value_heads", None) or n_heads,
        d_ff=getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * d_model,
        vocab_size=embedding.num_embeddings,
        context_length=text.max_position_embeddings,
        head_dim=getattr(text, "head_dim", None) or d_model // n_heads,
        norm_eps=float(getattr(norm, "eps", None) or getattr(norm, "variance_epsilon", 1e-5)),
        tied=bool(text.tie_word_embeddings),
    )
