"""Commands that write a backbone for other programs."""

from __future__ import annotations

PANEL = "Use"
