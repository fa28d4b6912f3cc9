"""Commands that ask a version, score it, and verify the store."""
