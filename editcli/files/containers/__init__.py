"""What rows are kept in: lines, a JSON list, or a table. Rows are read one at a time."""
