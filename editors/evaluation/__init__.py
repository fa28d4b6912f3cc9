"""Scores of edits, from a user's view. Imports ``inference`` and ``model``, but no method."""
