"""The crash-safe store behind `stored`: frames wait on disk until an engine has delivered them."""
