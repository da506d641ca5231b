"""The real process under load, killed at random and at named points; then all is recounted.

`records.py` makes the records, `oracle.py` is the service, `clients.py` send and keep what they
were promised, `crasher.py` kills and starts again (`process.py`: one life; `plan.py`: when),
`launch.py` kills at a named point from inside, `verdict.py` recounts. With a kill the power may
fail (`tests/kit/power.py`): what was not fsynced is forgotten. `faults.py` and `trial.py` put
faults into a copy of kdaemon, which all of this must notice.
`soak.py` does everything at once, for hours: `lives.py` begins and ends the daemon in every way,
`soak_plan.py` says what happens, `soak_service.py` is a service, `watch.py` and `trend.py` look at
memory and files. `ending.py` is the end of both kinds of runs.
`python -m tests.crash --kills 200 --losses 200 --seed 7` runs it for as long as one likes.
"""
