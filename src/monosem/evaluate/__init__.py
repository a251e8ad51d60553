"""How good an SAE is: reconstruction, downstream loss, baselines, steering, and the report that shows it all."""
