"""Commands that look through images: copies, outliers, choices, labels."""

from __future__ import annotations

PANEL = "Use"
