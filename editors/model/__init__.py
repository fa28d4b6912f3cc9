"""Reading a model: its blocks, projections, tokens and hooks. Of ``editors``, it imports only the
modules that are in no folder."""
