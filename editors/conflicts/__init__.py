"""Passage against memory: measure, locate and resolve. Imports ``evaluation`` and ``heads``."""
