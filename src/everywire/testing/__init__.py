"""The public test kit: a clock that tests turn, broken links, and suites that every part must pass."""
