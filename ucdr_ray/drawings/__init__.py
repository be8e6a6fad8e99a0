"""The embedded data: objects drawn by code in several styles, the same for everyone, from a seed."""

from pathlib import Path

ALIGNMENT = Path(__file__).with_name("alignment.yaml")
"""How to train on them: staged alignment alone."""

DUDE = Path(__file__).with_name("dude.yaml")
"""How to train on them with the package's generator."""
