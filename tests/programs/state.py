"""Prints, as one line of JSON, what a process can find out about how it was started."""

import json
import os
import resource
import signal

print(
    json.dumps(
        {
            "pid": os.getpid(),
            "group": os.getpgrp(),
            "cwd": os.getcwd(),  # noqa: PTH109
            "env": dict(os.environ),
            "uid": os.getuid(),
            "gid": os.getgid(),
            "groups": os.getgroups(),
            "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1],  # noqa: PTH208 the last is the listing's own
            "pipes": [os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in range(3)],  # noqa: PTH115
            "is_blocking": [os.get_blocking(fd) for fd in range(3)],
            "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            "ignored": [each.name for each in sorted(signal.valid_signals()) if signal.getsignal(each) is signal.SIG_IGN],
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
            "memory": resource.getrlimit(resource.RLIMIT_AS),
            "cpu": resource.getrlimit(resource.RLIMIT_CPU),
        }
    ),
    flush=True,
)
