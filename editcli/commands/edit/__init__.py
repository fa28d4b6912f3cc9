"""Commands that make a store and edit facts into it."""
