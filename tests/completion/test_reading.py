"""A text that is there already: its latents, token by token, are those of the SAE on the clean model."""

import pytest
import torch
from random_model import random_llama
from small_run import small_run

from monosem.completion import Completer, concept, read
from monosem.errors import ModelError


@pytest.fixture(scope="module")
def completer(tmp_path_factory: pytest.TempPathFactory) -> Completer:
    return Completer(small_run(tmp_path_factory.mktemp("runs") / "run"), random_llama())


def test_tokens_have_the_codes_of_the_clean_model(completer: Completer) -> None:
    text = "abc def"
    ids = completer.model.tokenizer.encode(text)
    codes, within = completer.codes(ids)
    found = read(completer, text, 3)
    assert [token.id for token in found] == ids
    assert "".join(token.token for token in found) == text
    for token, values, latents, known in zip(found, codes.values, codes.indices, within, strict=True):
        expected = [(int(i), float(v)) for v, i in zip(values[:3], latents[:3], strict=True) if v != 0 and known]
        assert [(one.latent, one.value) for one in token.latents] == expected
        assert all(one.share == pytest.approx(one.value / 2.0) for one in token.latents)


def test_generating_elsewhere_does_not_disturb(completer: Completer) -> None:
    before = read(completer, "abcdef", 4)
    events = completer.stream(["xyz"], show_latents=2)
    next(events)
    next(events)
    assert read(completer, "abcdef", 4) == before
    events.close()


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "empty"), ("  \n", "empty"), ("a" * 200, "200 tokens; the model reads 128"), ("\ud800", "UTF-8")],
)
def test_what_cannot_be_read(completer: Completer, text: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        read(completer, text, 3)


def test_concept_is_the_mean_share_over_new_tokens(completer: Completer) -> None:
    prompt, new = completer.model.tokenizer.encode("abc"), completer.model.tokenizer.encode("defg")
    codes, within = completer.codes([*prompt, *new])
    dense = torch.where(within[:, None], codes.dense(), 0)[len(prompt) :]
    strongest = [int(latent) for latent in dense.sum(0).topk(2).indices]
    assert concept(completer, prompt, new, strongest) == pytest.approx(
        dense[:, strongest].mean().item() / 2.0, rel=1e-5
    )
    assert concept(completer, prompt, [], strongest) is None
