"""Sparse autoencoders: the model, its sparsity, its losses, its files. Knows no language model and no store."""
