"""Pack: queues per shard, and PutRecords batches drawn from them. Pure."""
