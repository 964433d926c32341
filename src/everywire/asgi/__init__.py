"""The other host: the same transports inside any ASGI server."""
