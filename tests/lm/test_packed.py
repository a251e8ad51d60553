import torch

from monosem.lm.packed import Packed


def test_sentences_stand_one_after_the_other() -> None:
    packed = Packed.pack([[5, 6, 7], [8], [9, 10]])
    assert packed.ids.tolist() == [5, 6, 7, 8, 9, 10]
    assert packed.position.tolist() == [0, 1, 2, 0, 0, 1]
    assert packed.offsets.tolist() == [0, 3, 4, 6]
    assert packed.sentence.tolist() == [0, 0, 0, 1, 2, 2]
    assert packed.last.tolist() == [2, 3, 5]
    assert packed.lengths.tolist() == [3, 1, 2]
    assert (packed.n_tokens, packed.n_sentences) == (6, 3)
    assert {part.dtype for part in packed} == {torch.int64}


def test_nothing_packs_into_nothing() -> None:
    packed = Packed.pack([])
    assert (packed.n_tokens, packed.n_sentences) == (0, 0)
