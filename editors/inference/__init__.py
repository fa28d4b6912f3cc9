"""Running a model, edited or not: batches, calls, answers, hidden states. Imports ``model``."""
