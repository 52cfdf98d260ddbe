"""Drains of operators, for workers that missed them: their process was starting, or had not got an earlier edit."""

import structlog
from anyio.abc import TaskGroup

from scalesocket.control.messages import Drain
from scalesocket.workers.link import LinkError
from scalesocket.workers.site_messages import Ran, Run
from scalesocket.workers.slot import Worker
from scalesocket.workers.workers import Workers

log = structlog.get_logger("workers")


def repeat_drains(worker: Worker, workers: Workers, tasks: TaskGroup) -> None:
    """Drain in a process what is drained elsewhere. It may have missed that, or undone it with an edit that came late."""

    async def drain(request: Drain) -> None:
        try:
            if worker.link is not None:
                await worker.link.call(Run(request), Ran)
        except LinkError as error:  # a process that ends has a successor, which drains too
            log.warning("worker not drained", worker=worker.index, app=request.app, error=str(error))

    requests = [Drain(app=app) for app in workers.drained] + ([Drain()] if workers.is_draining else [])
    for request in requests:
        tasks.start_soon(drain, request, name="repeat a drain")
