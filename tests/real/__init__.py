"""A real model: `make demo-real` and `make test-real`."""
