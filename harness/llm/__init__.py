"""Ask LLMs: a client with a journal, retries and a budget, and a parser for replies. It knows no vendor."""
