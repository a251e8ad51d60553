"""Storing and replacing what layers leave."""

import pytest
import torch
from random_model import D, random_llama

from monosem.errors import ModelError
from monosem.lm.generate import Sampling, collect
from monosem.lm.layers import replace_activations, store_activations
from monosem.lm.packed import Packed

PACKED = Packed.pack([[1, 2, 3], [4, 5]])


def test_stored_are_the_activations_of_every_pass():
    model = random_llama()
    expected = model.activations(PACKED, ["0.resid_post", "2.resid_post"])
    with store_activations(model, [0, 2]) as stored:
        logits = model.logits(PACKED)
        collect(model.generate([[1, 2], [3]], Sampling(max_new_tokens=3)), 2)
    assert stored.keys() == {0, 2}
    assert [len(x) for x in stored[2]] == [5, 3, 2, 2]
    for layer in stored:
        assert torch.equal(stored[layer][0], expected[f"{layer}.resid_post"])
    assert torch.equal(model.logits(PACKED), logits)
    assert len(stored[0]) == 4, "nothing is stored behind the with"


def test_replaced_is_what_the_model_goes_on_with():
    model = random_llama()
    x = model.activations(PACKED, ["1.resid_post"])["1.resid_post"]
    with replace_activations(model, 1, lambda own: own * 0.5), store_activations(model, [1]) as stored:
        replaced = model.logits(PACKED)
    torch.testing.assert_close(replaced, model.resume("1.resid_post", x * 0.5, PACKED))
    torch.testing.assert_close(stored[1][0], x * 0.5)
    assert not torch.allclose(replaced, model.logits(PACKED))


def test_mistakes():
    model = random_llama()
    with pytest.raises(ModelError, match="layers 0 to 2"), store_activations(model, [3]):
        pass
    with pytest.raises(ModelError, match="layers 0 to 2"), replace_activations(model, 9, torch.relu):
        pass
    with replace_activations(model, 1, lambda x: x[:, 1:]), pytest.raises(ModelError, match=rf"expected \[5, {D}\]"):
        model.logits(PACKED)
