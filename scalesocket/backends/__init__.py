"""The backends of rooms: a process on standard input and output, a process on a port, or a TCP or unix target.

Three processes take part (docs/spawner.md). The **gateway** is the server. The **spawner process** is its child, which starts
every program. The **guardian process** is a fork of the spawner, which kills what is left when both were killed.

What a room uses, in the gateway:

    backend.py           the interface between a room and its backend
    open.py              opens the backend of a room
    stdio.py, tcp.py     the backends
    process.py           a room's process: how it is stopped, its standard error in the log (line_log.py)
    connection.py        a connection to a target or a port
    ports.py             the ports that children listen on

The gateway's side of the spawner:

    spawner_client.py    SpawnerClient: starts children, and replaces a spawner that dies
    child_table.py       ChildTable: the children that are not yet reaped
    spawner_process.py   SpawnerProcess: one spawner process, its socket, its standard error
    spawner_stderr.py    that standard error in the log
    pending_starts.py    starts that wait or are in flight, and their deadlines
    child.py             SpawnRequest, and Child: a started process and its group
    spawner_recovery.py  what the gateway takes over when a spawner dies:
    adopted_children.py    its children,
    orphan_reaper.py       the zombies of processes that programs left behind,
    guardian_pipe.py       the pipe of its guardian
    process_groups.py    reaping groups, finding children that were not reported

In the spawner process and the guardian process:

    spawner/             its own map is in spawner/__init__.py; protocol.py has the packets between gateway and spawner
"""
