"""The command line: one module per command, and `main` that chooses among them."""
