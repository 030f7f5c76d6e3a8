"""Models and what is read from them: loading, one chat format, components, taps, KL."""
