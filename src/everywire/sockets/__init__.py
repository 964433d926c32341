"""Logical connections that outlive the requests which carry them: Engine.IO, Socket.IO and SockJS."""
