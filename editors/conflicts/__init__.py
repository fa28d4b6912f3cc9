"""Conflicts of a passage with memory: measuring how they are answered, locating the heads that
decide, and resolving conflicts by pruning. Imports ``evaluation`` and ``heads``."""
