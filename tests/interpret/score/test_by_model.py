"""What the language model is asked for: values of texts, suffixes, log-probabilities, strengths of equal KL."""

import pytest
import torch
import torch.nn.functional as F
from random_model import HOOK_POINT, random_llama, random_sae, random_sentences

from monosem.evaluate.replay import Replay
from monosem.evaluate.steering import SAMPLE_PROMPTS
from monosem.interpret.score import intervention, likelihood
from monosem.interpret.score.n2g_ablated import LONGEST, Peak, Prober, patterns
from monosem.lm.packed import Packed


class Ruled(Prober):
    """Answers by a rule about texts in the place of a model; counts what would be read."""

    def __init__(self, rule) -> None:
        self._rule, self.tokens = rule, 0

    def values(self, texts, latents):  # noqa: ARG002 - the rule is the latent
        self.tokens += sum(map(len, texts))
        return [float(self._rule(text)) for text in texts]


BLANK = 99
RULES = {
    "word": (lambda text: 2.0 * (text[-1] == 7), [(7,)]),
    "bigram": (lambda text: 2.0 * (text[-2:] == (5, 7)), [(5, 7)]),
    "gap": (lambda text: 2.0 * (len(text) > 2 and text[-3] == 5 and text[-1] == 7), [(5, None, 7)]),
    "after": (lambda text: 2.0 * (len(text) > 1 and text[-2] == 5), [(5, None)]),
    "sink": (lambda text: 2.0 * (len(text) > 1 and text[-1] == 7), [(7,)]),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_cut_and_blanked_out_of_a_text(rule):
    fires, expected = RULES[rule]
    peaks = [Peak(3, (1, 2, 3, 4, 5, 7), 2.0), Peak(3, (9, 8, 5, 7), 2.0)]
    if rule == "gap":
        peaks = [Peak(3, (1, 5, 6, 7), 2.0), Peak(3, (9, 8, 5, 4, 7), 2.0)]
    found = patterns(Ruled(fires), peaks, BLANK)
    assert [pattern.tokens for pattern in found.patterns[3]] == expected
    assert found.patterns[3][0].support == 2
    assert found.unexplained == {3: 0}


def test_an_example_that_needs_a_long_text_has_no_pattern():
    long = tuple(range(LONGEST + 4))
    found = patterns(Ruled(lambda text: 2.0 * (len(text) > LONGEST)), [Peak(3, long, 2.0)], BLANK)
    assert found.patterns == {3: []}
    assert found.unexplained == {3: 1}
    assert found.tokens == sum(range(1, LONGEST + 1))


def median_norm(texts) -> float:
    """Of the activations of texts: half of them are within."""
    x = random_llama().activations(Packed.pack(texts), [HOOK_POINT])[HOOK_POINT]
    return float(x.norm(dim=1).median())


@pytest.mark.parametrize("threshold", [False, True])
def test_a_value_at_the_end_of_a_text_is_that_of_a_plain_pass(threshold):
    texts = [tuple(ids) for ids in random_sentences(20)] * 2
    highest = median_norm(texts) if threshold else None
    model, sae = random_llama(), random_sae(norm_threshold=highest)
    prober = Prober(Replay(model, HOOK_POINT), sae, batch_tokens=16)
    latents, expected = [], []
    for number, text in enumerate(texts):
        x = model.activations(Packed.pack([text]), [HOOK_POINT])[HOOK_POINT][-1:]
        codes, inside = sae.encode(x), highest is None or float(x.norm()) <= highest
        latents.append(int(codes.indices[0, number % 4]))
        expected.append(float(codes.values[0, number % 4]) * inside)
    assert prober.values(texts, latents) == pytest.approx(expected, abs=1e-4)
    assert any(expected)
    assert all(expected) == (highest is None)
    assert prober.tokens == sum(map(len, set(texts))), "equal texts are read once"


def test_log_probabilities_are_those_of_the_logits():
    model = random_llama()
    reader = likelihood.Reader(model, batch_tokens=40)
    pairs = [("abc", "hello"), ("a", "ox"), ("abc", "hello"), ("something longer here", "x")]
    expected = []
    for context, text in pairs:
        start, ids = model.tokenizer.encode(context), model.tokenizer.encode(" " + text)
        logits = model.logits(Packed.pack([[*start, *ids]]))[len(start) - 1 : -1]
        expected.append(-float(F.cross_entropy(logits, torch.tensor(ids), reduction="sum")))
    assert reader.log_probabilities(pairs) == pytest.approx(expected, rel=1e-4)
    tokens = reader.tokens
    assert reader.log_probabilities(pairs) == pytest.approx(expected, rel=1e-4)
    assert reader.tokens == tokens, "a pair is read once"


def test_a_text_beyond_the_context_is_cut():
    model = random_llama()
    (value,) = likelihood.Reader(model, 500).log_probabilities([("a" * 200, "b")])
    assert value == 0.0


@pytest.mark.parametrize("threshold", [False, True])
def test_directions_are_pushed_to_the_same_divergence(threshold):
    model = random_llama()
    prompts = [model.tokenizer.encode(prompt) for prompt in SAMPLE_PROMPTS]
    highest = median_norm(prompts) if threshold else None
    sae = random_sae(norm_threshold=highest)
    replay = Replay(model, HOOK_POINT)
    directions = F.normalize(sae.W_dec.detach()[:5])
    strengths = intervention.equal_kl(replay, sae, directions)
    packed = Packed.pack(prompts)
    x = replay.activations(packed)
    inside = x.norm(dim=1) <= (highest or float("inf"))
    clean = model.logits(packed)[inside].log_softmax(1)
    for strength, direction in zip(strengths, directions, strict=True):
        pushed = torch.where(inside[:, None], x + strength * direction, x)
        moved = model.resume(HOOK_POINT, pushed, packed)[inside].log_softmax(1)
        divergence = F.kl_div(moved, clean, reduction="batchmean", log_target=True)
        assert float(divergence) == pytest.approx(intervention.KL, rel=0.05)
