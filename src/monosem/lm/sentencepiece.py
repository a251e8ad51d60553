"""SentencePiece's byte-pair vocabularies, as GGUF files hold them, for the `tokenizers` library.

The file has pieces with scores and no merges: of two neighbours those are joined first whose whole has the best score,
so every way to cut a piece into two others is a merge, in the order of the scores. Spaces are spelled U+2581; what no
piece covers is spelled in bytes, `<0xE2>`. Knows no file format.
"""

from collections.abc import Sequence

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # gguf.TokenType
SPACE = "\u2581"


def sentencepiece_bpe(pieces: Sequence[str], scores: Sequence[float], kinds: Sequence[int]) -> tokenizers.Tokenizer:
    """Assemble a tokenizer that puts no space before a text (`add_space_prefix` false: Gemma).

    Args:
        pieces: by id.
        scores: of each piece; the higher, the sooner it is put together.
        kinds: `gguf.TokenType` of each piece.
    """
    vocab = {piece: index for index, piece in enumerate(pieces)}
    normal = {piece: score for piece, score, kind in zip(pieces, scores, kinds, strict=True) if kind == NORMAL}
    unknown = "<unk>" if "<unk>" in vocab else None
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=_merges(normal, vocab), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Replace(" ", SPACE)
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([piece for piece, kind in zip(pieces, kinds, strict=True) if kind == CONTROL])
    whole = [piece for piece, kind in zip(pieces, kinds, strict=True) if kind == USER_DEFINED]
    backend.add_tokens([AddedToken(piece, normalized=True, special=False) for piece in whole])
    return backend


def _merges(normal: dict[str, float], vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Every cut of a piece into two pieces, best score first."""
    cuts = [
        (-score, vocab[piece], place, piece)
        for piece, score in normal.items()
        for place in range(1, len(piece))
        if piece[:place] in normal and piece[place:] in normal
    ]
    return [(piece[:place], piece[place:]) for _, _, place, piece in sorted(cuts)]
