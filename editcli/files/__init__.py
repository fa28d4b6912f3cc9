"""Reading files of facts, conflicts, texts and the corpus; bad lines are named. Needs no model."""
