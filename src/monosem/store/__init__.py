"""Activations on disk: shards, their statistics, the shuffled training set, and the loader that reads it."""
