"""What the run's own language model says of a few latents: ablated patterns, surprisal, intervention, steered texts.

Flow: the latents are spread evenly over those that are explained; each score is one batch over all of them. The result
is one object: rows of the table of scores, what was found of each latent, and the tokens that each score took. Nothing
here is measured on random directions of an untrained SAE but the intervention: it would double the dearest part.
"""

from typing import Any

import numpy as np

from monosem.evaluate.replay import Replay
from monosem.interpret import tables
from monosem.interpret.score import intervention, n2g_ablated, output_meaning, questions
from monosem.interpret.score.inputs import Inputs
from monosem.interpret.score.likelihood import Reader, surprisal
from monosem.interpret.score.n2g import compare
from monosem.interpret.score.n2g_ablated import Peak, Prober
from monosem.interpret.score.places import END, START, Pattern
from monosem.interpret.score.rows import Row
from monosem.interpret.score.token_score import MIN_FIRINGS, TokenScore
from monosem.lm.source import open_model
from monosem.sae import files

PEAKS = 10  # examples of a latent whose texts are cut and blanked
SENTENCES = 6  # firing, and as many silent ones, whose surprisal is read
WORDS = 8  # of an output meaning
SPELLED = {None: "·", START: "^", END: "$"}
SHOWN = 10  # patterns and tokens of a latent that are written


def score(inputs: Inputs, by_token: TokenScore) -> dict[str, Any]:
    """`rows`, `latents`, `tokens` and `prompts`, ready for JSON."""
    latents = inputs.spread(inputs.recipe.sample)
    if not latents:
        return {"rows": [], "latents": [], "tokens": {}, "prompts": {}}
    model = open_model(inputs.run.recipe.model)
    sae = files.load(inputs.run.sae_folder)
    prober = Prober(Replay(model, inputs.run.recipe.hook_point), sae, inputs.recipe.batch_tokens)
    ablated = n2g_ablated.patterns(prober, _peaks(inputs, latents), _blank(inputs))
    rows = [row for latent in latents for row in _ablated_rows(by_token, latent, ablated.patterns.get(latent, []))]

    reader = Reader(model, inputs.recipe.batch_tokens)
    tests, others = inputs.tests(latents), inputs.others(latents)
    rows += surprisal(reader, tests, inputs.texts(tests), inputs.explanations, others, SENTENCES)
    tokens = {"n2g_ablated": ablated.tokens, "surprisal": reader.tokens}
    replay = Replay(model, inputs.run.recipe.output_hook_point)
    writings = intervention.write(replay, sae, latents, inputs.run.recipe.seed)
    rows += intervention.score(reader, writings, latents, inputs.explanations, others)
    tokens["intervention"] = reader.tokens - tokens["surprisal"]
    found = _meanings(inputs, latents, writings)
    for one in found:
        one["patterns"] = spelled(inputs, ablated.patterns.get(one["latent"], [])[:SHOWN])
        one["without_pattern"] = ablated.unexplained.get(one["latent"], 0)
    prompts = {prompt.name: prompt.sha256 for prompt in map(questions.prompt, ("surprisal", "intervention"))}
    return {"rows": [row._asdict() for row in rows], "latents": found, "tokens": tokens, "prompts": prompts}


def spelled(inputs: Inputs, patterns: list[Pattern]) -> list[str]:
    """Patterns for readers: `·` is any token, `^` the beginning of the sentence; the last token is the firing one.

    `$` is the end of the sentence, and then the first token is the firing one.
    """
    texts = []
    for pattern in patterns:
        ids = [token for token in pattern.tokens if token is not None and token >= 0]
        pieces = iter(inputs.tokenizer.pieces(ids))
        texts.append("".join(SPELLED.get(t) or next(pieces) for t in pattern.tokens))
    return texts


def _peaks(inputs: Inputs, latents: list[int]) -> list[Peak]:
    """The best examples, each up to the token where the latent fires most."""
    rows = inputs.best_examples(latents, PEAKS)
    wanted = np.unique([row["sentence"] for row in rows])
    table = tables.read_sorted(inputs.examples / tables.SENTENCES, "sentence", wanted)
    ids = dict(zip(table["sentence"].to_pylist(), table["tokens"].to_pylist(), strict=True))
    peaks = []
    for row in rows:
        best = int(np.argmax(row["values"]))
        text = tuple(ids[row["sentence"]][: row["positions"][best] + 1])
        peaks.append(Peak(row["latent"], text, row["values"][best]))
    return peaks


def _blank(inputs: Inputs) -> int:
    """The token that stands for a blanked one: a space, or what closes a text where the space is no token."""
    ids = inputs.tokenizer.encode(" ")
    return ids[0] if len(ids) == 1 else inputs.tokenizer.eos_ids[0]


def _ablated_rows(by_token: TokenScore, latent: int, patterns: list[Pattern]) -> list[Row]:
    fires = by_token.fires(latent)
    if len(fires) < MIN_FIRINGS:
        return []
    found = compare(by_token.where(patterns), fires)
    named = {"precision": found.precision, "recall": found.recall, "f1": found.f1}
    return [Row(latent, "n2g_ablated", figure, float(value)) for figure, value in named.items()]


def _meanings(inputs: Inputs, latents: list[int], writings: intervention.Writings) -> list[dict[str, Any]]:
    """Input and output meaning of each latent, side by side."""
    table = tables.read_sorted(inputs.run.folder("evaluation") / tables.LATENTS, "latent", latents)
    output = {row["latent"]: row for row in table.to_pylist()}
    samples = [writing.text.samples for writing in (*writings.steered, *writings.random)]
    found = []
    for number, (latent, written) in enumerate(zip(latents, writings.steered, strict=True)):
        others = [text for i, texts in enumerate(samples) if i != number for text in texts]
        found.append(
            {
                "latent": latent,
                "input_meaning": inputs.explanations[latent],
                "output_meaning": output_meaning.contrast(
                    written.text.samples, [*others, *writings.plain.samples], WORDS
                ),
                "output_score": output[latent]["output_score"],
                "raised": output[latent]["raised"][:SHOWN],
                "lowered": output[latent]["lowered"][:SHOWN],
                "strength": written.strength,
                "plain": list(writings.plain.samples),
                "steered": list(written.text.samples),
                "perplexity": written.text.perplexity,
            }
        )
    return found
