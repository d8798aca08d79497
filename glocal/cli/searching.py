"""Commands that embed images and search among them."""

from __future__ import annotations

PANEL = "Use"
