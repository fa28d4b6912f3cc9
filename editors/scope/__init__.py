"""Which prompts an edited fact claims: scope signals and their state. Imports ``inference``."""
