"""Shared by the methods that train a projection. Imports ``scope``, ``inference`` and ``model``."""
