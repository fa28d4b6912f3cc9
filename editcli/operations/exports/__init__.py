"""Writing a version to a folder, and uploading it. Imports what operations import."""
