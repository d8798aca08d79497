"""glocal: self-supervised visual representation learning, globally and locally at once."""

__version__ = "0.1.0"
