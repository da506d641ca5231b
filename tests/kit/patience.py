"""How long a test waits for what must happen: one number, for all of them.

A wait ends when what it waits for is there. This bound is for what never comes, so that a test that
hangs fails by name; it says nothing about how fast anything should be, and it is far beyond what a
busy machine needs. pytest's own `timeout` is a few times as long.
"""

PATIENCE_S = 60.0
