"""The embedded data: objects drawn by code in several styles, the same for everyone, from a seed."""

from pathlib import Path

RECIPE = Path(__file__).with_name("alignment.yaml")
"""How to train on them."""
