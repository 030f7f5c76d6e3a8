"""The contract between the host and its plugins: hooks, stages, and what a run hands to a step."""
