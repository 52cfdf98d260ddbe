"""The user and the groups that a child runs as."""

import grp
import os
import pwd

from scalesocket.backends.spawner.errors import StartError

Credentials = tuple[int | None, int | None, list[int] | None]
"""The numbers of a user, a group and the supplementary groups; None for what stays as it is."""


def find_credentials(user: str | None, group: str | None) -> Credentials:
    """The numbers of the user, the group and the supplementary groups; None for what stays as it is.

    Raises StartError if there is no such user or group, or if the spawner may not become it.
    """
    if user is None and group is None:
        return None, None, None
    entry = find_user(user) if user is not None else None
    gid = find_group(group) if group is not None else entry.pw_gid if entry is not None else None
    if os.geteuid() == 0:
        return (entry.pw_uid, gid, os.getgrouplist(entry.pw_name, gid)) if entry and gid is not None else (None, gid, [])
    if (entry and entry.pw_uid != os.geteuid()) or gid not in {os.getegid(), *os.getgroups()}:
        raise StartError(f"only root may run it as {user if user is not None else group!r}")
    return None, gid, None


def find_user(name: str) -> pwd.struct_passwd:
    """The user with this name or number. Raises StartError."""
    try:
        return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        raise StartError(f"there is no user {name!r}") from None


def find_group(name: str) -> int:
    """The number of the group with this name or number. Raises StartError."""
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise StartError(f"there is no group {name!r}") from None


def set_credentials(uid: int | None, gid: int | None, groups: list[int] | None) -> None:
    """Become another user, as subprocess.Popen does. Raises OSError."""
    if groups is not None:
        os.setgroups(groups)
    if gid is not None:
        os.setregid(gid, gid)
    if uid is not None:
        os.setreuid(uid, uid)
