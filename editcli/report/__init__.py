"""What a version looks like to people: the HTML page, and the model card of an export. Imports
`store` and `operations`, no model."""
