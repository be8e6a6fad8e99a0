"""The embedded data: objects drawn by code in several styles, the same for everyone, from a seed."""
