"""The tables of a store: the history, and the records of what each event added."""
