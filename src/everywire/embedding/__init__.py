"""Embedding: a server inside another one's processes, which may be several."""
