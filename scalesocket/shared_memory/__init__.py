"""Memory that the workers of a server share, so that limits count over all of them exactly.

`memory` is the mapping, made by the supervisor and opened by each worker; `layout` says what is where. `capacity` is what a
worker counts in it. Each worker has a column of its own, which it alone writes: what it counts needs no lock, and is cleared when
it has died. The little that all write is locked (`locks`) for microseconds, by locks that the kernel releases when a process
ends, and no process waits for one for longer than milliseconds. Nothing here is on the way of a message.
"""
