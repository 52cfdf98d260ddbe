"""The table of running process groups, in memory that the spawner shares with the guardian."""

import mmap
from typing import Final

from scalesocket.backends.spawner.processes import boot_ticks

MAX_GROUPS: Final = 1 << 20
"""Slots of the table; the kernel allocates its pages when they are first used. Groups past that are not covered."""
PID_BITS: Final = 22
"""Bits of a word that hold a pid (Linux: PID_MAX_LIMIT); the others hold a time."""
STARTING: Final = 0
"""Index of the word that holds the start time of the child that is being started; 0 if there is none."""
USED: Final = 1
"""Index of the word that holds how many words are in use."""
DEADLINE: Final = 2
"""Index of the word that holds the deadline of all groups, in nanoseconds of CLOCK_BOOTTIME; 0 if there is none."""
FIRST: Final = 3
"""Index of the first group."""


class GroupTable:
    """The groups that the guardian has to kill. Only the spawner writes: one store for each start."""

    def __init__(self) -> None:
        self.words = memoryview(mmap.mmap(-1, 8 * (FIRST + MAX_GROUPS))).cast("Q")
        self.words[USED] = FIRST
        self.free: list[int] = []

    def begin_start(self) -> None:
        """Note that a child is being started, whose pid is not known yet."""
        self.words[STARTING] = boot_ticks()

    def end_start(self) -> None:
        """Note that the child is in the table, or was not started."""
        self.words[STARTING] = 0

    @property
    def starting_since(self) -> int:
        """Since when, in ticks, a child has been starting; 0 if none is."""
        return self.words[STARTING]

    @property
    def deadline(self) -> int:
        """When all groups are killed; 0 if there is no deadline, or the spawner has killed them."""
        return self.words[DEADLINE]

    @deadline.setter
    def deadline(self, at: int) -> None:
        self.words[DEADLINE] = at

    def add(self, pid: int) -> int:
        """Add an existing group and return its slot, 0 if the table is full."""
        if self.free:
            slot = self.free.pop()
        else:
            slot = self.words[USED]
            if slot == len(self.words):
                return 0
            self.words[USED] = slot + 1
        self.words[slot] = boot_ticks() << PID_BITS | pid
        return slot

    def remove(self, slot: int) -> None:
        """Remove a group that was killed, before the kernel can reuse its number."""
        if slot:
            self.words[slot] = 0
            self.free.append(slot)

    def added_at(self) -> dict[int, int]:
        """When each group was added, in ticks, by its number."""
        words = self.words[FIRST : self.words[USED]].tolist()
        return {word & (1 << PID_BITS) - 1: word >> PID_BITS for word in words if word}
