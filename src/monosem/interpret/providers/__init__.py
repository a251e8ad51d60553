"""Whoever answers a prompt with text: batch interfaces, servers, files, the embedded language model."""
