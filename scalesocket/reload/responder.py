"""What a running server answers over its control socket."""

from typing import assert_never

from scalesocket.config.problems import ConfigError
from scalesocket.control.messages import Answer, Diff, Reload, Request, Status
from scalesocket.control.server import Respond
from scalesocket.gateway import Gateway
from scalesocket.reload.reloader import Reloader


def make_responder(gateway: Gateway, reloader: Reloader) -> Respond:
    """What answers `reload`, `diff` and `status`."""

    async def respond(request: Request) -> Answer:
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

    return respond
