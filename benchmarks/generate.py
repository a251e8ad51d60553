"""Generation beside transformers' `generate`, greedy, on the same weights and prompts.

For 1, 4 and 20 prompts of different lengths: the prompts alone (one new token), and what every further token costs.
Both sides write the same number of tokens, whatever they say. Every contestant takes its turn in every round, in one
process; a ratio is the median over rounds of the ratio within a round.

    python benchmarks/generate.py --dtype float32 --new 64 --json
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from capture import transformers_model
from transformers import GenerationConfig, LlamaForCausalLM

from monosem import assets
from monosem.lm.checkpoint import DTYPES, load_model
from monosem.lm.generate import Sampling, collect
from monosem.lm.llama import Llama

Prompts = list[list[int]]
Writer = Callable[[Prompts, int], object]
OURS, THEIRS = "monosem", "transformers"


def main() -> None:
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    ours = load_model(assets.resolve(args.model).path, args.dtype, "cpu")
    ours.tokenizer.eos_ids = ()  # neither side stops early
    writers = {OURS: our_writer(ours), THEIRS: their_writer(ours)}
    report = {
        "model": args.model,
        "dtype": args.dtype,
        "new_tokens": args.new,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rounds": args.rounds,
        "rows": {str(rows): measured(writers, prompts(ours, rows), args) for rows in args.rows},
    }
    print(json.dumps(report, indent=2) if args.json else table(report))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a Llama")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 20], help="prompts at once")
    parser.add_argument("--new", type=int, default=64, help="new tokens of each prompt")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every contestant, after one to warm up")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    args = parser.parse_args()
    if args.new < 2:
        parser.error(f"--new {args.new}: expected at least 2, the first belongs to the prompts")
    return args


def prompts(model: Llama, rows: int) -> Prompts:
    """Beginnings of articles, 8 to 64 tokens."""
    articles = json.loads(assets.resolve("wikipedia-en").path.read_text(encoding="utf-8")).values()
    draw = random.Random(0)
    texts = draw.sample([article["extract"] for article in articles if len(article["extract"]) > 500], rows)
    return [ids[: draw.randint(8, 64)] for ids in model.tokenizer.encode_batch(texts)]


def our_writer(model: Llama) -> Writer:
    def write(prompts: Prompts, new: int) -> Prompts:
        return collect(model.generate(prompts, Sampling(max_new_tokens=new)), len(prompts))

    return write


def their_writer(ours: Llama) -> Writer:
    """Transformers' `generate` on our weights, prompts padded on the left."""
    body = transformers_model(ours, ours.config.n_layers)
    body.norm.weight.data = ours.norm.data
    model: Any = LlamaForCausalLM(body.config)
    model.to(dtype=ours.dtype).eval()
    model.model = body
    model.lm_head.weight.data = (ours.embed if ours.head is None else ours.head).data
    model.generation_config = GenerationConfig(pad_token_id=0)

    def write(prompts: Prompts, new: int) -> torch.Tensor:
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in prompts])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
        with torch.no_grad():
            return model.generate(ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False)

    return write


def measured(writers: dict[str, Writer], prompts: Prompts, args: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of reading the prompts and of writing; ours by theirs."""
    prefill: dict[str, list[float]] = {name: [] for name in writers}
    decode: dict[str, list[float]] = {name: [] for name in writers}
    for turn in range(args.rounds + 1):
        for name, write in writers.items():
            first, whole = seconds(write, prompts, 1), seconds(write, prompts, args.new)
            if turn:
                prefill[name].append(sum(map(len, prompts)) / first)
                decode[name].append(len(prompts) * (args.new - 1) / max(whole - first, 1e-9))
    return {"prompt_tokens": sum(map(len, prompts)), "prefill": compared(prefill), "decode": compared(decode)}


def seconds(write: Writer, prompts: Prompts, new: int) -> float:
    start = time.perf_counter()
    write(prompts, new)
    return time.perf_counter() - start


def compared(speed: dict[str, list[float]]) -> dict[str, float]:
    """Median tokens a second of each, and how many times faster ours is within a round."""
    ratio = statistics.median(a / b for a, b in zip(speed[OURS], speed[THEIRS], strict=True))
    medians = {f"{name}_tokens_per_s": round(statistics.median(values), 1) for name, values in speed.items()}
    return {**medians, "ours_is_faster": round(ratio, 3)}


def table(report: dict[str, Any]) -> str:
    facts = {key: value for key, value in report.items() if key != "rows"}
    lines = [", ".join(f"{key} {value}" for key, value in facts.items())]
    lines.append(f"{'rows':>6} {'part':10}{OURS + ' tokens/s':>20}{THEIRS + ' tokens/s':>24}{'ratio':>9}")
    for rows, parts in report["rows"].items():
        for part in ("prefill", "decode"):
            ours, theirs, ratio = parts[part].values()
            lines.append(f"{rows:>6} {part:10}{ours:>20,.0f}{theirs:>24,.0f}{ratio:>8.2f}x")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
