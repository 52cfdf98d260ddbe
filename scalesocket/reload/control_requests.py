"""The answers to requests over the control socket."""

from contextlib import ExitStack

import msgspec

from scalesocket.config.problems import ConfigError
from scalesocket.control.messages import Answer, Caller, Request, Tail
from scalesocket.operations.table import Operations


class TailStream:
    """The stream of a tail (`control.server.Stream`)."""

    def __init__(self, operations: Operations, request: Tail, caller: Caller) -> None:
        """Open the tail. Raises OperationError."""
        self._open = ExitStack()
        tail = self._open.enter_context(operations.open_tail(request, caller))
        self.answer = Answer(result=msgspec.Raw(msgspec.json.encode(tail.outcome)))
        self.read = tail.read

    def close(self) -> None:
        """End the tail."""
        self._open.close()


async def answer_request(request: Request, caller: Caller, operations: Operations) -> Answer | TailStream:
    """Carry out a request and return the answer. Raises the errors of the operations but for ConfigError."""
    if isinstance(request, Tail):
        return TailStream(operations, request, caller)
    try:
        result = await operations.run(request, caller)
    except ConfigError as error:
        return Answer(error=error.render(), is_site_wrong=True)
    return Answer(result=msgspec.Raw(msgspec.json.encode(result)))
