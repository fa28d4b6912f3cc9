"""The commands that bring an edited model to other programs. Imports everything but commands."""
