"""Which prompts an edited fact claims: signals and what they know. Imports ``inference``."""
