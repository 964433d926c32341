"""The pages a person sees in a browser: so far the race page at ``/``.

Pages are static files beside this package, plain ES modules without a build step. Nothing here reads a
channel: the race page is a client like any other and uses only the public transports of the same server.
"""
