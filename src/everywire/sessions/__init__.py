"""Sessions: one client's life with many channels, whatever carries it."""
