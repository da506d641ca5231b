"""Settle: what an answer means for each record. Pure."""
