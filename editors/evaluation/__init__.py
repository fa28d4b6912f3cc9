"""Scores of edits as a user would see them. Imports ``inference`` and ``model``, no method."""
