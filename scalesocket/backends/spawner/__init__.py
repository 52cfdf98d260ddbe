"""What runs in the spawner process and the guardian process. Imports the standard library alone, to start in 25 ms.

main.py              the program: signals, terminal, niceness
spawner.py           Spawner: serves the gateway's requests, kills every backend at the deadline, and when the gateway ends
protocol.py          the packets between gateway and spawner
reports.py           reports that wait while the gateway does not read
last_word.py         what is sent for a gateway that has died
deadline.py          the deadline of all backends, with its timer (timer.py)
start.py             starts a program, with its limits
cgroups.py           the control groups of programs with limits
credentials.py       and as another user or group
descriptors.py       the limits of open files of the spawner and its children
children.py          watches children by pidfd, releases and reaps their groups
guardian_process.py  starts and replaces the guardian
guardian.py          what the guardian process does
group_table.py       the groups it has to kill, in shared memory
processes.py         /proc, and how a group is killed
"""
