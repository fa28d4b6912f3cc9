"""What the conflict commands share. Imports what operations import."""
