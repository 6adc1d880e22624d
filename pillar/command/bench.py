"""Measure speed and size as ratios to floors of the same run; the same as scripts/bench."""

from pillar.bench.__main__ import add_arguments, run

__all__ = ["add_arguments", "run"]
