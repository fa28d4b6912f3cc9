"""Reading files of facts, conflicts, phrasings and texts; bad lines are named. Imports no model."""
