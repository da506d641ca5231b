"""Pace: token buckets, backoff, and the circuit around a stream. Pure."""
