"""Commands that show versions, move between them, and take edits back."""
