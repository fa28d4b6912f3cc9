"""The terminal: shared options, output, progress. Imports `store` and `files`, and no model."""
