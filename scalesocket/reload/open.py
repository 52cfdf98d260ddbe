"""Opens hot reload: the reloader with its watch of the site file, and the control socket."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

import anyio

from scalesocket.control.address import AUTO, control_paths
from scalesocket.control.messages import Answer, Caller, Request
from scalesocket.control.server import open_control
from scalesocket.gateway import Gateway
from scalesocket.operations.running import Running
from scalesocket.operations.table import Operations
from scalesocket.reload.control_requests import TailStream, answer_request
from scalesocket.reload.edited_site import EditedGateway, EditedSite
from scalesocket.reload.overrides import NO_OVERRIDES, Overrides
from scalesocket.reload.preparation import Prepare
from scalesocket.reload.reloader import Reloader


@asynccontextmanager
async def open_reloader(
    gateway: Gateway,
    *,
    operations: Operations | None = None,
    prepare: Sequence[Prepare] = (),
    overrides: Overrides = NO_OVERRIDES,
    digests: Mapping[str, str] | None = None,
    is_watching: bool = True,
) -> AsyncIterator[Reloader | None]:
    """Apply edits of the site file to the running site until the block ends; yield None for a site without a file.

    `prepare`: functions that open what an edited site needs, its listeners and its certificate. The control socket is
    prepared here, and carries out `operations`, to which this gives the reloader. Raises ControlError when another server runs
    this file. `digests`: as in `Reloader`.
    """
    operations = operations or Operations(Running(gateway))
    prepare = (*prepare, gateway.admission.authenticators.prepare)
    edited = EditedGateway(gateway)
    async with open_editing(
        edited, operations, prepare=prepare, overrides=overrides, digests=digests, is_watching=is_watching
    ) as reloader:
        yield reloader


@asynccontextmanager
async def open_editing(
    edited: EditedSite,
    operations: Operations,
    *,
    prepare: Sequence[Prepare],
    overrides: Overrides = NO_OVERRIDES,
    digests: Mapping[str, str] | None = None,
    is_watching: bool = True,
) -> AsyncIterator[Reloader | None]:
    """As `open_reloader`, for a site that may be served by other processes."""
    site = edited.site
    if site.path is None:
        yield None
        return

    async def answer(request: Request, caller: Caller) -> Answer | TailStream:
        return await answer_request(request, caller, operations)

    paths, is_chosen = control_paths(site.server.control, site.path), site.server.control != AUTO
    async with open_control(paths, answer, is_needed=is_chosen) as control:
        reloader = Reloader(edited, site.path, prepare=(control.prepare, *prepare), overrides=overrides, digests=digests)
        operations.running.reloader = reloader
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(reloader.run, is_watching=is_watching), name="reloader")
            yield reloader
            tasks.cancel_scope.cancel()
