"""The host: reads the registry, loads plugins, plans a study, runs it, and is the only writer of results."""
