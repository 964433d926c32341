"""Everywire: one channel, every wire.

A server for the real-time web whose channels are reached by polling, long
polling, HTTP streaming, server-sent events and WebSocket, all with the same
positions and the same recovery, so that a client may change transports in the
middle of a stream and miss nothing.
"""

__version__ = "0.1.0"
