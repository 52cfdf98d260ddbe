"""Hot reload as the supervisor starts it: the reloader, what watches for it, and the control socket that speaks for it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import anyio

from scalesocket.control.address import AUTO, control_paths
from scalesocket.control.messages import Answer, Request
from scalesocket.control.server import open_control
from scalesocket.gateway import Gateway
from scalesocket.reload.control_requests import respond
from scalesocket.reload.overrides import NO_OVERRIDES, Overrides
from scalesocket.reload.preparation import Prepare
from scalesocket.reload.reloader import Reloader


@asynccontextmanager
async def open_reloader(
    gateway: Gateway, *, prepare: Sequence[Prepare] = (), overrides: Overrides = NO_OVERRIDES, is_watching: bool = True
) -> AsyncIterator[Reloader | None]:
    """Keep the running site in step with its file until the block ends; None for a site that came from no file.

    `prepare` open what an edited site needs: its listeners, its certificate. The control socket prepares itself.
    Raises ControlError when another server runs this file.
    """
    site = gateway.site
    if site.path is None:
        yield None
        return

    async def answer(request: Request) -> Answer:
        return await respond(request, gateway, reloader)

    paths, is_chosen = control_paths(site.server.control, site.path), site.server.control != AUTO
    async with open_control(paths, answer, is_needed=is_chosen) as control:
        reloader = Reloader(gateway, site.path, prepare=(*prepare, control.prepare), overrides=overrides)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(reloader.run, is_watching=is_watching), name="reloader")
            yield reloader
            tasks.cancel_scope.cancel()
