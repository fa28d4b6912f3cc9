"""Other ways to decode in a conflict, to compare with. Imports ``inference`` and ``heads``."""
