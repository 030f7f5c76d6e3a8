"""The host: reads the roster, loads plugins, plans a study, runs it, and is the only writer of results."""
