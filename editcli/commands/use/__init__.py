"""Panel "Use": talking with a version, and serving it to other programs."""
