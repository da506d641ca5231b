"""The real process under load, killed at random and at named points; then all is recounted.

`records.py` makes the records, `oracle.py` is the service, `clients.py` send and keep what they
were promised, `crasher.py` kills and starts again (`process.py`: one life), `launch.py` kills at a
named point from inside, `verdict.py` recounts.
`python -m tests.crash --kills 200 --seed 7` runs it for as long as one likes.
"""
