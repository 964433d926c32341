"""The version of this package; what clients are told, and what is on its label."""

__all__ = ["__version__"]

__version__ = "0.1.0"
