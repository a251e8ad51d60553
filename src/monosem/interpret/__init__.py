"""What latents mean: their examples, explanations, and the views of both."""
