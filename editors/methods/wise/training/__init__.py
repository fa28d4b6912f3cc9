"""Training the values of a shard. Imports ``methods.training`` and the shards of ``wise``."""
