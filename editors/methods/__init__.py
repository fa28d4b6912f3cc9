"""Editing methods, a folder each, and the contract they keep. Imports ``scope`` and ``heads``."""
