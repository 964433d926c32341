"""The broker over NATS: JetStream is the log."""
