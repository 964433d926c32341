"""The broker over SQLite: the workers of one machine share a file."""
