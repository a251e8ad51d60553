"""Scores that need no judge but the run's own language model: how likely a text is, given another.

Surprisal: does the explanation make the sentences in which the latent fires likelier than those in which it is silent?
`log p(x | z) - log p(x | neutral)`, as AUROC over the test set (arXiv 2410.13928). The model need not be able to follow
instructions: it only reads.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from monosem.evaluate.replay import Replay, packs
from monosem.interpret.score import measures, questions
from monosem.interpret.score.held_out import Reserved, Text
from monosem.interpret.score.rows import Row
from monosem.lm.protocol import LanguageModel

NEUTRAL = "nothing in particular"


class Reader:
    """Log-probabilities of texts under a model.

    Args:
        batch_tokens: read at once.
    """

    def __init__(self, model: LanguageModel, batch_tokens: int) -> None:
        self._tokenizer, self._batch_tokens = model.tokenizer, batch_tokens
        self._context = model.config.context_length
        self._replay = Replay(model, f"{model.config.n_layers - 1}.resid_post")
        self._known: dict[tuple[str, str], float] = {}
        self.tokens = 0
        """Read so far."""

    def log_probabilities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """`log p(text | context)`, in nats, for pairs of context and text; a pair is read once."""
        fresh = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        encoded = {pair: (self._tokenizer.encode(pair[0]), self._tokenizer.encode(" " + pair[1])) for pair in fresh}
        order = sorted(fresh, key=lambda pair: sum(map(len, encoded[pair])))
        whole = [[*context, *text][: self._context] for context, text in (encoded[pair] for pair in order)]
        done = 0
        for pack in packs(whole, self._batch_tokens):
            pairs_here = zip(order[done : done + len(pack)], pack, strict=True)
            starts = [min(len(encoded[pair][0]), len(ids)) for pair, ids in pairs_here]
            for value in self._read(pack, starts):
                self._known[order[done]] = value
                done += 1
        return [self._known[pair] for pair in pairs]

    @torch.no_grad()
    def _read(self, pack: Sequence[Sequence[int]], starts: Sequence[int]) -> list[float]:
        """Of each sequence, the log-probability of its tokens from its start on."""
        packed = self._replay.pack(pack)
        self.tokens += packed.n_tokens
        begin = packed.offsets[:-1] + torch.tensor(starts)
        rows = [torch.arange(int(a) - 1, int(b) - 1) for a, b in zip(begin, packed.offsets[1:], strict=True)]
        wanted = torch.cat(rows).to(packed.ids.device)
        ends, targets = self._replay.activations(packed)[wanted], packed.ids[wanted + 1]
        losses: list[Tensor] = []
        at = 0
        for logits in self._replay.head(ends):
            losses.append(logits.log_softmax(1).gather(1, targets[at : at + len(logits), None]).squeeze(1))
            at += len(logits)
        parts = torch.cat(losses).double().cpu().split([len(part) for part in rows])
        return [float(part.sum()) for part in parts]


def surprisal(
    reader: Reader,
    tests: Sequence[Reserved],
    texts: Mapping[int, Text],
    explanations: Mapping[int, str],
    others: Mapping[int, str],
    sentences: int,
) -> list[Row]:
    """AUROC of every latent that has an explanation and a test set.

    Args:
        others: by latent, another latent's explanation.
        sentences: firing, and as many silent ones, that are read.
    """
    rows = []
    for test in tests:
        shown = [*test.of("firing")[:sentences], *test.of("silent")[:sentences]]
        truth = np.array([one.kind == "firing" for one in shown], dtype=bool)
        if test.latent not in explanations or truth.all() or not truth.any():
            continue
        own, other = (
            _auroc(reader, [texts[one.sentence].text for one in shown], truth, told[test.latent])
            for told in (explanations, others)
        )
        length = np.array([len(texts[one.sentence].tokens) for one in shown], dtype=np.float64)
        frequency = float(measures.auroc(length, truth))
        rows.append(Row(test.latent, "surprisal", "auroc", own, shuffled=other, frequency=frequency, chance=0.5))
    return rows


def _auroc(reader: Reader, sentences: Sequence[str], truth: measures.Bools, explanation: str) -> float:
    template = questions.prompt("surprisal")
    told, neutral = (template.fill(explanation=text) for text in (explanation, NEUTRAL))
    given = reader.log_probabilities([(told, sentence) for sentence in sentences])
    plain = reader.log_probabilities([(neutral, sentence) for sentence in sentences])
    return float(measures.auroc(np.array(given) - np.array(plain), truth))
