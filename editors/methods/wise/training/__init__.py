"""How the values of a shard are trained. Imports ``methods.training`` and the shards above."""
