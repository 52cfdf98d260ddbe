"""Requests to the directory: scripts with the arguments that all have in common, and their answers as Python values."""

from typing import Final

from scalesocket.cluster.engine import Engine
from scalesocket.cluster.link import Answer, EngineRefusedError, EngineUnavailableError, Word
from scalesocket.cluster.records import Free, NodeAddress, Owned, Recovering
from scalesocket.cluster.scripts import Script

SECOND: Final = 1_000_000
"""Microseconds. Scripts count in them."""
TIMEOUT: Final = 2.0
"""Seconds for an answer that a person waits for."""
PATIENCE: Final = 0.4
"""Part of the lease for which the engine may owe the answer to a renewal. So a pause of that length costs no lease, and after a
connection that was lost silently there is time to open another."""
LONGEST_PATIENCE: Final = 10.0
"""Seconds for other answers, at most."""


class SessionLostError(EngineUnavailableError):
    """This node has no session, or the engine does not know it; the next renewal shows which."""


class Requests:
    """Runs scripts, and remembers the highest fence that any of them named."""

    def __init__(self, name: str, lease: float) -> None:
        """Make requests to the directory of the cluster `name`. `lease`: seconds."""
        self.prefix: Final = f"{{{name}}}:"
        self.renewal_timeout: Final = PATIENCE * lease
        """Seconds for the answer to a renewal."""
        self.answer_timeout: Final = min(max(TIMEOUT, PATIENCE * lease), LONGEST_PATIENCE)
        """Seconds for the answer to a claim, and to what keeps the directory right."""
        self.fence = 0
        self._lease = round(lease * SECOND)

    def arguments(self, *words: Word) -> tuple[Word, ...]:
        """Return the arguments of a script."""
        return (self.prefix, self._lease, self.fence, *words)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that scripts are given. They make the names of the others themselves."""
        return (f"{self.prefix}engine",)

    async def run(self, engine: Engine, script: Script, *words: Word, timeout: float = TIMEOUT) -> tuple[str, list[Answer]]:
        """Run a script. Returns the first word of its answer, and the rest. Raises EngineError."""
        answer = await engine.run(script, self.keys, self.arguments(*words), timeout=timeout)
        match answer:
            case [bytes(word), *rest]:
                return word.decode(), rest
        raise EngineRefusedError(f"it answered a script with {answer!r:.40} (is this the address of an engine?)")

    def note_fence(self, fence: int) -> int:
        """Remember a fence, and return it."""
        self.fence = max(self.fence, fence)
        return fence

    def read_owner(self, word: str, rest: list[Answer]) -> Owned | Recovering | Free:
        """Read the answer to `find`, or to a claim that did not succeed. Raises SessionLostError."""
        match word, rest:
            case "owned", [node, inc, advertise, fence]:
                return Owned(NodeAddress(node.decode(), inc.decode(), advertise.decode()), self.note_fence(fence))
            case "recovering", [left]:
                return Recovering(left / SECOND)
            case "free", []:
                return Free()
        raise SessionLostError("the session of this node has ended")
