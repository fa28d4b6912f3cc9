"""Relation encoders: from a text with its subject taken out to the direction of its question."""
