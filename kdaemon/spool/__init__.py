"""The crash-safe store behind `stored`."""
