"""Who reads what in this process: fan-out, recovery, rules."""
