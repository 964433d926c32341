"""Socket.IO, versions 5 and 4: packets with their attachments, as JSON and as MessagePack."""
