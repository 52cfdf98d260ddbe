"""The protocol between the gateway and the spawner process: one marshalled dict per packet of a SOCK_SEQPACKET pair.

Both ends run the same Python, which makes marshal safe to use. The gateway sends requests, the spawner reports:

    request                                           report
                                                      {"ready": PID, "guardian": PID} once, when it has started
    {"do": "spawn", "id": N, "argv": …, "env": …,     {"spawned": N, "pid": PID} with three descriptors, the gateway's ends
     "cwd": …, "user": …, "group": …, "limits": …}      of stdin, stdout and stderr; or {"failed": N, "error": TEXT}
                                                      {"exited": PID, "status": S}, S as in subprocess: -N for signal N
    {"do": "release", "pid": PID}                     {"released": PID, "status": S} when the group is killed and reaped
    {"do": "watch", "pids": […]}                      (groups of a previous spawner, to be killed if the gateway ends)
    {"do": "confirm watch"}                           {"watching": PID}: all groups sent so far are watched
    {"do": "unwatch", "pid": PID}
                                                      {"cgroups": FOLDER, "controllers": …, "reason": TEXT} once, before the
                                                        first start with `limits`; TEXT is empty if there are groups
    {"do": "deadline", "at": T}                       {"deadline": T} at once; {"expired": T} when all backends were killed at
                                                        T, in seconds of CLOCK_BOOTTIME; no start succeeds until another T;
                                                        None removes it
    {"do": "last word", "word": WORD}                 (for the engine of a cluster, when the gateway has died and
                                                        all groups are killed; None: nothing)
    {"do": "guard", "id": N} with a socket            {"not guarded": N} if no descriptor was left for it
    {"do": "stop guarding", "id": N}
                                                      {"guardian": PID} when the guardian was replaced; 0: there is none
"""

from marshal import dumps as encode
from marshal import loads as decode

__all__ = ["DEADLINE_PASSED", "MAX_REPORT", "MAX_REQUEST", "REPORT_FDS", "STAND_DOWN", "STAY_SILENT", "decode", "encode"]

MAX_REQUEST = 1 << 20
"""Longest request, in bytes: what the kernel may hold for the socket. A system's `net.core.wmem_max` may be lower."""
MAX_REPORT = 1 << 16
"""Longest report, in bytes."""
REPORT_FDS = 3
"""Descriptors that a report may carry."""
DEADLINE_PASSED = "this server has lost its lease of the rooms"
"""Why no program is started after the deadline."""
STAND_DOWN = b"."
"""What the gateway writes to a guardian's pipe when the guardian is no longer needed: it ends and kills nothing."""
STAY_SILENT = b"-"
"""What it writes when the guardian's spawner has died and gets a successor, which sends the last word for all groups."""
