"""The answers to requests over the control socket."""

import msgspec

from scalesocket.config.problems import ConfigError
from scalesocket.control.messages import Answer, Caller, Request, Tail
from scalesocket.operations.table import Operations, Tailing


class TailStream:
    """The stream of a tail (`control.server.Stream`)."""

    def __init__(self, tail: Tailing) -> None:
        """Send what `tail` shows."""
        self.answer = Answer(result=msgspec.Raw(msgspec.json.encode(tail.outcome)))
        self.read = tail.read
        self.close = tail.close


async def answer_request(request: Request, caller: Caller, operations: Operations) -> Answer | TailStream:
    """Carry out a request and return the answer. Raises the errors of the operations but for ConfigError."""
    if isinstance(request, Tail):
        return TailStream(await operations.open_tail(request, caller))
    try:
        result = await operations.run(request, caller)
    except ConfigError as error:
        return Answer(error=error.render(), is_site_wrong=True)
    return Answer(result=msgspec.Raw(msgspec.json.encode(result)))
