"""The broker over Redis: one server, a cluster, or what Sentinels watch."""
