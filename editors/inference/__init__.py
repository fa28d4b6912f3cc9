"""Running a model: batches, calls, answers and states, edited or not. Imports ``model``."""
