"""An OpenAI-compatible server over one store. Imports ``operations`` and what is below."""
