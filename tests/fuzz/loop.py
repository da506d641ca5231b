"""The event loop of all inputs of a process: to make one takes longer than most inputs do.

An input leaves nothing in the loop: it closes what it opened.
"""

import asyncio

run = asyncio.new_event_loop().run_until_complete
