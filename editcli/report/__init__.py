"""The HTML page about a version: what it says, and its templates. Imports `store`, no model."""
