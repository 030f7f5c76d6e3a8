"""Asking LLMs: a client with a journal, retries and a budget, and a parser for what comes back. Knows no vendor."""
