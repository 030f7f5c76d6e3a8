"""Reports: typed rows of the queries as tables, JSON, CSV, Markdown and LaTeX. Imports no torch."""
