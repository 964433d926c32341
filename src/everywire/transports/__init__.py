"""The wires: each drives a reader of the hub over an exchange that a host gives it."""
