"""The client side: reading channels over any transport, and publishing to them.

What the command line stands on, and nothing more yet: `reader.subscribe` and `publish.Publisher`.
"""
