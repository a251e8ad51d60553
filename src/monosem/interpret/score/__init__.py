"""How good explanations are: every score on sentences that were reserved before explaining, beside its baselines."""
