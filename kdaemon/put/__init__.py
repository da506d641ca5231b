"""`kdaemon put`: a file's records to a running daemon. A client; imported by `cli.py` only."""
