"""A rehearsal of any recipe: every stage on a CPU in minutes, to find out what would fail before it costs days.

Flow: `rehearse` writes a randomly initialised model of the recipe's true width, cut to two layers, and returns the
recipe shrunk around it: some hundred Wikipedia sentences, few latents, few steps, explanations offline. All the choices
(hook points, encodings, sparsity, losses, schedules) stay the recipe's. What it makes means nothing.
"""

from dataclasses import replace
from pathlib import Path

from monosem.lm.hookpoints import HookPoint
from monosem.lm.shape import describe
from monosem.lm.source import open_tokenizer
from monosem.lm.untrained import write_untrained
from monosem.progress import note
from monosem.recipe import ModelRecipe, Recipe

LAYERS = 2
SENTENCES = 300
LATENTS = 512
BATCH = 512
SUFFIX = "-dry-run"
_TOKENIZER = ModelRecipe(source="smollm2-135m-instruct")


def rehearse(recipe: Recipe, runs: Path) -> Recipe:
    """Write the model to `runs/NAME-dry-run.model` and return the recipe of the rehearsal.

    Raises:
        AssetError: the embedded model, whose tokenizer is used, cannot be had, or the recipe's cannot be looked up.
        ModelError: the recipe's model does not tell its shape, or has no such hook point.
    """
    config = describe(recipe.model.source).config
    for name in recipe.capture.hook_points:
        HookPoint.parse(name, config.n_layers)
    tokenizer = open_tokenizer(_TOKENIZER)
    folder = runs / f"{recipe.name}{SUFFIX}.model"
    note(f"dry run: {recipe.model.source}, {LAYERS} of {config.n_layers} layers, random weights, in {folder}")
    cut = replace(config, n_layers=LAYERS, vocab_size=tokenizer.vocab_size)
    write_untrained(folder, cut, tokenizer, recipe.seed)
    return shrink(recipe, str(folder))


def shrink(recipe: Recipe, model: str) -> Recipe:
    """The recipe at the size of a rehearsal, reading the model at the path `model`, which has `LAYERS` layers."""
    n = min(recipe.sae.n, LATENTS)
    hook_points = {name: str(_moved(HookPoint.parse(name))) for name in recipe.capture.hook_points}
    train, sae = recipe.train, recipe.sae
    batch, start = min(train.batch, BATCH), min(train.k_anneal_start or 0, n)
    return Recipe.model_validate(
        recipe.model_dump()
        | {
            "name": recipe.name + SUFFIX,
            "model": recipe.model.model_dump() | {"source": model, "device": "auto"},
            "corpus": {
                "sources": ("wikipedia-en",),
                "max_sentences": SENTENCES,
                "max_tokens": recipe.corpus.max_tokens,
            },
            "capture": recipe.capture.model_dump()
            | {"hook_points": tuple(dict.fromkeys(hook_points.values())), "shard_mb": 16, "source": None},
            "prepare": recipe.prepare.model_dump() | {"shard_mb": 16, "consume": False, "source": None},
            "sae": sae.model_dump()
            | {"n": n, "k": min(sae.k, n), "prefixes": tuple(size for size in sae.prefixes if size < n)},
            "train": train.model_dump()
            | {
                "hook_point": None if train.hook_point is None else hook_points[train.hook_point],
                "target_hook_point": None if train.target_hook_point is None else hook_points[train.target_hook_point],
                "batch": batch,
                "micro_batch": None if train.micro_batch is None else batch // 2,
                "multi_k": tuple(min(k, n) for k in train.multi_k),
                "k_aux": min(train.k_aux, n),
                "k_anneal_start": start if start > sae.k else None,
                "epochs": 1,
                "dead_tokens": 4 * batch,
                "dead_steps": None,
                "validations": 1,
                "validation_tokens": batch,
                "resample_tokens": min(train.resample_tokens, 4 * batch),
            },
            "finetune": recipe.finetune.model_dump()
            | {"tokens": min(recipe.finetune.tokens, 1000), "batch_tokens": 500},
            "explain": {"provider": "lexical", "aggregation": recipe.explain.aggregation},
            "evaluate": {"sentences": 10, "steering_latents": 2, "steering_controls": 2},
            "score": {"shuffles": 20, "random_latents": 20, "sample": 1, "judge": "none"},
            "report": {"latents": 20},
        }
    )


def _moved(point: HookPoint) -> HookPoint:
    """The hook point in a model of few layers."""
    return point._replace(layer=min(point.layer, LAYERS - 1))
