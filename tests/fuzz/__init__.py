"""Malformed inputs by the thousand, each in a process of its own: `python -m fuzz`."""
