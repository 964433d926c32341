"""What operators and other servers ask over HTTP."""
