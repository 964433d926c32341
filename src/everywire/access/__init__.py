"""Access: who someone is, what they may do, how often, and what the application says to it."""
