"""Commands that need no store: fact files, and the methods there are."""
