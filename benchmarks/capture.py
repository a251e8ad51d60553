"""Capture beside Hugging Face's model and beside the bare matrix products, on the same sentences.

Useful tokens a second (tokens of sentences, not padding) of: our Llama on packed sentences; transformers' model on
batches sorted by length, on random batches, and on random batches padded to the longest length that is allowed; the
products alone, on blocks of 2,048 rows. All of them run the same first layers with the same weights and stop there.
Every contestant takes its turn in every round, in one process; a ratio is the median over rounds of the ratio within
a round. A round of a slower contestant reads fewer sentences, drawn evenly.

    python benchmarks/capture.py --layers 20 --dtype bfloat16 --json
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers import LlamaModel as TheirLlama

from monosem import assets
from monosem.capture.reading import batches
from monosem.lm.checkpoint import DTYPES, load_model
from monosem.lm.llama import Block, Llama
from monosem.lm.packed import Packed

Sentences = list[list[int]]
Contestant = Callable[[Sentences], object]
OURS, SORTED, RANDOM, PADDED, PRODUCTS = (
    "monosem",
    "transformers, sorted",
    "transformers, random",
    "transformers, padded",
    "matrix products",
)
SHARE = {OURS: 1.0, SORTED: 1.0, RANDOM: 0.5, PADDED: 0.2, PRODUCTS: 1.0}
"""Of the sentences, that a contestant reads in a round."""
ROWS = 2048
LONGEST = 192


def main() -> None:
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    ours = load_model(assets.resolve(args.model).path, args.dtype, "cpu")
    sentences = read_sentences(ours, args.sentences)
    contestants = entered(ours, args)
    rounds = measure(contestants, sentences, args.rounds)
    report = summary(rounds, sentences, args)
    print(json.dumps(report, indent=2) if args.json else table(report))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a Llama")
    parser.add_argument("--layers", type=int, default=20, help="layers that are run")
    parser.add_argument("--dtype", choices=list(DTYPES), default="bfloat16")
    parser.add_argument("--sentences", type=int, default=600, help="sentences a round")
    parser.add_argument("--batch", type=int, default=64, help="sentences in a batch of transformers")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every contestant, after one to warm up")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    return parser.parse_args()


def read_sentences(model: Llama, count: int) -> Sentences:
    """Sentences of the embedded text, in random order."""
    import punkt

    articles = json.loads(assets.resolve("wikipedia-en").path.read_text(encoding="utf-8")).values()
    chosen = random.Random(0).sample([article["extract"] for article in articles], min(count, len(articles)))
    texts = [text for extract in chosen for text in punkt.tokenizer_for("english").tokenize(extract)]
    random.Random(1).shuffle(texts)
    return [ids[:LONGEST] for ids in model.tokenizer.encode_batch(texts[:count]) if ids]


def entered(ours: Llama, args: argparse.Namespace) -> dict[str, Contestant]:
    """The contestants, on the same weights."""
    theirs = transformers_model(ours, args.layers)
    point = f"{args.layers - 1}.resid_post"
    theirs.norm = torch.nn.Identity()  # a capture of ours ends before it
    check(ours, theirs, point)

    def packed(sentences: Sentences) -> None:
        for batch in batches(torch.tensor([len(ids) for ids in sentences]).numpy(), ROWS):
            ours.activations(Packed.pack([sentences[place] for place in batch]), [point])

    def in_order(sentences: Sentences) -> None:
        padded(theirs, sorted(sentences, key=len), args.batch)

    return {
        OURS: packed,
        SORTED: in_order,
        RANDOM: lambda sentences: padded(theirs, sentences, args.batch),
        PADDED: lambda sentences: padded(theirs, sentences, args.batch, LONGEST),
        PRODUCTS: products(ours, args.layers),
    }


def transformers_model(ours: Llama, layers: int) -> Any:
    """Transformers' Llama with our first layers' weights."""
    config = ours.config
    shape = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.d_model,
        intermediate_size=config.d_ff,
        num_hidden_layers=layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.context_length,
        rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
    )
    theirs: Any = TheirLlama(shape)  # SDPA, which is transformers' own choice
    theirs.to(dtype=ours.dtype)
    theirs.embed_tokens.weight.data = ours.embed.data
    for layer, theirs_block in enumerate(theirs.layers):
        block, to = cast(Block, ours.blocks[layer]), theirs_block
        widths = [config.z_width, config.kv_width, config.kv_width]
        q, k, v = block.qkv.data.split(widths)
        gate, up = block.gate_up.data.chunk(2)
        named = {"q_proj": q, "k_proj": k, "v_proj": v, "o_proj": block.out.data}
        for name, weight in named.items():
            getattr(to.self_attn, name).weight.data = weight
        for name, weight in {"gate_proj": gate, "up_proj": up, "down_proj": block.down.data}.items():
            getattr(to.mlp, name).weight.data = weight
        to.input_layernorm.weight.data = block.attn_norm.data
        to.post_attention_layernorm.weight.data = block.mlp_norm.data
    return theirs.eval()


@torch.no_grad()
def check(ours: Llama, theirs: Any, point: str) -> None:
    """Both read the same: else their times could not be compared."""
    ids = torch.arange(100, 120)
    found = ours.activations(Packed.pack([ids.tolist()]), [point])[point].float()
    expected = theirs(input_ids=ids[None], use_cache=False).last_hidden_state[0].float()
    error = float((found - expected).norm() / expected.norm())
    assert error < 0.05, f"{point} differs by {error:.3f} of its norm: the two models are not the same"


@torch.no_grad()
def padded(model: Any, sentences: Sentences, batch: int, length: int = 0) -> None:
    """Read sentences in batches, each padded on the right to its longest sentence or to `length`."""
    for start in range(0, len(sentences), batch):
        rows = sentences[start : start + batch]
        width = max(length, *(len(ids) for ids in rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        model(input_ids=ids, attention_mask=mask, use_cache=False)


def products(ours: Llama, layers: int) -> Contestant:
    """The matrix products of the layers alone, on blocks of `ROWS` rows."""
    blocks = [cast(Block, block) for block in list(ours.blocks)[:layers]]
    weights = [weight.data.T for block in blocks for weight in (block.qkv, block.out, block.gate_up, block.down)]
    inputs = {weight.shape[0]: torch.randn(ROWS, weight.shape[0]).to(weight.dtype) for weight in weights}

    @torch.no_grad()
    def run(sentences: Sentences) -> Tensor | None:
        left = sum(map(len, sentences))
        out = None
        while left > 0:
            rows = min(ROWS, left)
            for weight in weights:
                out = inputs[weight.shape[0]][:rows] @ weight
            left -= rows
        return out

    return run


def measure(contestants: dict[str, Contestant], sentences: Sentences, rounds: int) -> dict[str, list[float]]:
    """Useful tokens a second of every contestant in every round; the first round is thrown away."""
    speed: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            some = sentences[: max(1, round(SHARE[name] * len(sentences)))]
            start = time.perf_counter()
            run(some)
            if turn:
                speed[name].append(sum(map(len, some)) / (time.perf_counter() - start))
    return speed


def summary(rounds: dict[str, list[float]], sentences: Sequence[list[int]], args: argparse.Namespace) -> dict[str, Any]:
    """Medians, and how many times faster ours is within a round."""
    return {
        "model": args.model,
        "layers": args.layers,
        "dtype": args.dtype,
        "sentences": len(sentences),
        "mean_length": round(sum(map(len, sentences)) / len(sentences), 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rounds": args.rounds,
        "contestants": {
            name: {
                "tokens_per_s": round(statistics.median(values)),
                "ours_is_faster": round(statistics.median(a / b for a, b in zip(rounds[OURS], values, strict=True)), 3),
            }
            for name, values in rounds.items()
        },
    }


def table(report: dict[str, Any]) -> str:
    facts = {key: value for key, value in report.items() if key != "contestants"}
    lines = [", ".join(f"{key} {value}" for key, value in facts.items())]
    lines.append(f"{'':24}{'useful tokens/s':>17}{'monosem / it':>15}")
    for name, row in report["contestants"].items():
        lines.append(f"{name:24}{row['tokens_per_s']:>17,}{row['ours_is_faster']:>14.2f}x")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
