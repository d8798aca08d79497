"""Detectors with a backbone in them, and their training."""
