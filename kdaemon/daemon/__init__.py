"""The composition root: builds every room, passes each what it needs, runs it, drains it."""
