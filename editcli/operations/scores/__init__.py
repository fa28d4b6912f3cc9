"""What a version scores: the scores of its edits, and those of tasks, as tables and as JSON."""
