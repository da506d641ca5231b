"""The composition root: builds every room, passes each what it needs, runs it, drains it.

`run.py`: from the first signal to the exit code. `daemon.py`: the order of a start and of an end.
Every other file builds one part, and knows of the others what its constructor names.
"""
