"""Language models: loading, tokens, activations at hook points, editing, generation.

`checkpoint.load_model` makes a `llama.Llama` from files; `protocol.LanguageModel` is what the rest relies on.
"""
