"""The log store and the way between processes: one contract, several brokers."""
