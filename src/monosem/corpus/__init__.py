"""Documents, their sentences, and the tokens of these."""
