"""The scope signal ``key``: projected states of the last prompt token. Imports ``scope``."""
