"""Backbones as files for other programs, each checked against the one that it was made from."""

from glocal.exports.exporting import TARGETS, Exported, export
from glocal.exports.pushing import check_push, push_to_hub

__all__ = ["TARGETS", "Exported", "check_push", "export", "push_to_hub"]
