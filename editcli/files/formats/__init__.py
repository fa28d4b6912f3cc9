"""The formats of rows that are read as facts: our own, and those of public sets."""
