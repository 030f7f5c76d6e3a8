"""Room: activations."""
