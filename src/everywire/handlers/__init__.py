"""Handlers: the application's own functions, and what calls them."""
