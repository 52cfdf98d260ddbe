"""The state of the whole site, and the edits of its file."""

from scalesocket.control.messages import Diff, Reload, ReloadReport, Status
from scalesocket.operations.lookup import OperationError
from scalesocket.operations.running import Reloading, Running
from scalesocket.status import SiteStatus


async def show_status(running: Running, _: Status) -> SiteStatus:
    """Return a snapshot of the site."""
    return running.gateway.status() if running.cluster is None else running.cluster.status()


async def reload_site(running: Running, request: Reload) -> ReloadReport:
    """Apply the site file. Raises ConfigError, ReloadError and NoSuchAppError."""
    return await _reloader(running).reload("request", dry_run=request.dry_run, restart=request.restart)


async def diff_site(running: Running, _: Diff) -> ReloadReport:
    """Compare the site file with the running site. Raises ConfigError."""
    return await _reloader(running).diff()


def _reloader(running: Running) -> Reloading:
    if running.reloader is None:
        raise OperationError("this site has no file to read")
    return running.reloader
