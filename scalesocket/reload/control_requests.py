"""The answers to requests over the control socket."""

from typing import assert_never

from scalesocket.config.problems import ConfigError
from scalesocket.control.messages import Answer, Diff, Reload, Request, Status
from scalesocket.gateway import Gateway
from scalesocket.reload.reloader import Reloader


async def answer_request(request: Request, gateway: Gateway, reloader: Reloader) -> Answer:
    """Carry out a request and return the answer. Raises ReloadError."""
    try:
        match request:
            case Reload(dry_run=dry_run, restart=restart):
                return Answer(report=await reloader.reload("control socket", dry_run=dry_run, restart=restart))
            case Diff():
                return Answer(report=await reloader.diff())
            case Status():
                return Answer(status=gateway.status())
            case _:
                assert_never(request)
    except ConfigError as error:
        return Answer(error=error.render(), is_site_wrong=True)
