"""Causal language models of the Hugging Face library transformers, behind the protocol of our own.

`load_model` makes a `model.HuggingFaceModel` from files; transformers itself is imported when the first one is made.
"""

from monosem.lm.huggingface.files import load_model, load_tokenizer

__all__ = ["load_model", "load_tokenizer"]
