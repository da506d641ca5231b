"""Fuzzers: inputs without end at every reader of what others wrote.

A target is a module of this package that has `one_input(data)`, `SEEDS` (inputs to begin with) and
`TOKENS` (parts that inputs of its kind are made of). It may have `build(dice)`, which makes an
input that is nearly right: a JSON text with a random change is hardly ever JSON. `one_input` raises
only if the code under test breaks a promise: it asserts what must hold, and not only that nothing
is raised.
`python -m tests.fuzz --minutes 5` runs them all (`make fuzz`); `test_fuzz.py` runs a few seconds.
"""
