"""monosem finds the concepts inside a language model with sparse autoencoders."""

__version__ = "0.1.0"
