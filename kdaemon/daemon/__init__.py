"""The composition root: builds every room, passes each what it needs, runs it, drains it.

`run.py` runs from the first signal to the exit code. `daemon.py` has the order of a start and of an
end. Every other file builds one part, and knows only the parts that its constructor names.
"""
