"""`kdaemon put`: sends a file's records to a running daemon. A client; only `cli/` imports it."""
