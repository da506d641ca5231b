"""Route: partition key or explicit hash key to hash key to shard. Pure."""
