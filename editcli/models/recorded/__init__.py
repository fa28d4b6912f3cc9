"""What a store records of its base: its files, its structure, and what it is loaded by."""
