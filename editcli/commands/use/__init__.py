"""Commands that talk with a version, serve it, and bring it to other programs."""
