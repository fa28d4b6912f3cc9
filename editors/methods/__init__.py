"""Editing methods, one folder each, and their contract. Imports ``scope`` and ``heads``."""
