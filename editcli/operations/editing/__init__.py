"""Changing what a store believes: applying facts, and taking back what was done."""
