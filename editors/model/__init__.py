"""Reading a model: its blocks, projections, tokens and hooks. Imports only the modules beside it in
``editors``."""
