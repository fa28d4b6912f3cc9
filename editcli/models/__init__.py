"""Finding and loading models, by strict rules. Imports `store` for its configuration."""
