"""The answers to requests over the control socket."""

import msgspec

from scalesocket.config.problems import ConfigError
from scalesocket.control.messages import Answer, Caller, Request
from scalesocket.operations.table import Operations


async def answer_request(request: Request, caller: Caller, operations: Operations) -> Answer:
    """Carry out a request and return the answer. Raises the errors of the operations but for ConfigError."""
    try:
        result = await operations.run(request, caller)
    except ConfigError as error:
        return Answer(error=error.render(), is_site_wrong=True)
    return Answer(result=msgspec.Raw(msgspec.json.encode(result)))
