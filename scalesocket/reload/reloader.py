"""The reloader: from an edit of the site file to a running site that differs, or to a log that says why not.

Owns the order of the steps: read and parse, plan, prepare what can fail, apply in one synchronous step. Whatever fails
before that step leaves the site as it runs. `run` is its one task, started by the supervisor; one reload at a time.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio
import msgspec
import structlog
from anyio import to_thread

from scalesocket.config.load import Loaded
from scalesocket.config.model import Site
from scalesocket.config.plan import Plan, make_plan
from scalesocket.config.problems import ConfigError
from scalesocket.control.messages import AffectedKey, ReloadReport
from scalesocket.errors import SHUTTING_DOWN, ScalesocketError
from scalesocket.gateway import Gateway
from scalesocket.logs import set_log
from scalesocket.reload.affected import find_affected
from scalesocket.reload.overrides import NO_OVERRIDES, Overrides
from scalesocket.reload.preparation import Preparation, Prepare, commit_all, prepare_all, roll_back_all
from scalesocket.reload.public_error import redact_error
from scalesocket.reload.site_reader import SiteReader, digest_certificates, find_missing
from scalesocket.systemd import notify_ready, notify_reloading

log = structlog.get_logger("reload")

PREPARE_TIMEOUT: Final = 30.0
"""Seconds for everything that can fail: an edit must not hang between two sites."""
RETRY: Final = 5.0
"""Seconds until the file is watched again after a fault of ours."""
MAX_LOGGED: Final = 20
"""Problems of one broken edit that get a line of their own in the log."""
RENEWED: Final = AffectedKey(path="server.tls", kind="renewed", reload="live")
"""Another certificate or key in the same files."""


class ReloadError(ScalesocketError):
    """An edit was understood and could not be applied; the site runs as before."""


class NoSuchAppError(ScalesocketError):
    """The app whose rooms shall be restarted is not in the site; nothing was done."""


class Reloader:
    """Keeps the running site in step with its file."""

    def __init__(
        self, gateway: Gateway, path: Path, *, prepare: Sequence[Prepare] = (), overrides: Overrides = NO_OVERRIDES
    ) -> None:
        """Reload `gateway` from `path`.

        `prepare` open or load what an edit needs, called in this order (with an empty plan when certificates alone
        changed). `overrides`: what the command line says over the file.
        """
        self._gateway = gateway
        self._state = gateway.reload_state
        self._reader = SiteReader(path, overrides)
        self._prepare = tuple(prepare)
        self._certificates = digest_certificates(gateway.site)  # of those in use; read here, before they can change
        self._lock = anyio.Lock()
        self._trigger = ""
        self._requested = anyio.Event()

    async def run(self, *, is_watching: bool = True) -> None:
        """Apply every request and, with `is_watching`, every edit, for ever; also one made since the site was read."""
        async with anyio.create_task_group() as tasks:
            if is_watching:
                tasks.start_soon(self._watch, name="watch the site file")
            while True:
                await self._requested.wait()
                self._requested = anyio.Event()
                await self._try(self._trigger)

    def request(self, trigger: str) -> None:
        """Ask for a reload; `trigger` (such as `SIGHUP`) is for the log. Requests before it begins count as one."""
        self._trigger = trigger
        self._requested.set()

    async def reload(self, trigger: str, *, dry_run: bool = False, restart: str | None = None) -> ReloadReport:
        """Apply the site file, then restart the rooms of the app `restart`; with `dry_run` all but these last steps.

        Raises ConfigError when the file is wrong and ReloadError when it cannot be applied. Both leave the site as it
        runs; but for a dry run they are in the log and in the state that `/ready` shows. Raises NoSuchAppError for
        `restart`.
        """
        async with self._lock:
            if dry_run:
                return await self._reload(trigger, is_dry=True, restart=restart)
            if trigger != "start":
                notify_reloading()
            try:
                return await self._reload(trigger, is_dry=False, restart=restart)
            except (ConfigError, ReloadError) as error:
                self._refused(trigger, error)
                raise
            finally:
                if trigger != "start":
                    notify_ready()

    async def diff(self) -> ReloadReport:
        """Compare the file with what runs; what only preparing would find out stays open. Raises ConfigError."""
        async with self._lock:
            loaded = await self._reader.read()
            return self._report(loaded.site, make_plan(self._gateway.site, loaded.site), is_renewed=False)

    async def _watch(self) -> None:
        await self._try("start")
        while True:
            try:
                await self._reader.wait_changed()
            except Exception:  # ours; the site must not end for it
                log.exception("watching the site file failed", again_in=RETRY)
                await anyio.sleep(RETRY)
            await self._try("edit")

    async def _try(self, trigger: str) -> None:
        with suppress(ConfigError, ReloadError):  # they are in the log
            await self.reload(trigger)

    async def _reload(self, trigger: str, *, is_dry: bool, restart: str | None) -> ReloadReport:
        if self._gateway.is_draining:
            raise ReloadError(SHUTTING_DOWN.reason)
        try:
            loaded = await self._reader.read()
            site, plan = loaded.site, make_plan(self._gateway.site, loaded.site)
            if restart is not None and restart not in site.apps:
                raise NoSuchAppError(f"there is no app {restart!r} to restart (one of: {', '.join(site.apps)})")
            certificates = await to_thread.run_sync(digest_certificates, site, abandon_on_cancel=True)
            is_renewed = certificates != self._certificates and "tls" not in _keys(plan)
            report = self._report(site, plan, is_renewed=is_renewed)
            prepared = await self._make_ready(loaded, plan) if report.changes else []
            if is_dry:
                roll_back_all(prepared)
                return report
            if self._gateway.is_draining:  # since it was read
                roll_back_all(prepared)
                raise ReloadError(SHUTTING_DOWN.reason)
            if report.changes:
                self._apply(site, plan, prepared)
                log.info("reloaded", trigger=trigger, generation=self._state.generation, changes=_words(plan, is_renewed))
        except ScalesocketError:
            raise
        except Exception as error:
            log.exception("a fault of the server kept an edit from being applied", trigger=trigger)
            raise ReloadError(f"a fault of the server ({type(error).__name__}: {error})") from error
        self._certificates = certificates
        if not report.changes:
            self._unchanged(trigger)
        restarted = 0 if restart is None else self._gateway.restart_app(restart)
        return msgspec.structs.replace(
            report, is_applied=bool(report.changes), generation=self._state.generation, restarted=restarted
        )

    async def _make_ready(self, loaded: Loaded, plan: Plan) -> list[Preparation]:
        """Find out all that could keep the site from being applied, and open what it needs."""
        try:
            with anyio.fail_after(PREPARE_TIMEOUT):
                if lacks := await find_missing(loaded):
                    raise ConfigError(lacks)
                return await prepare_all(self._prepare, loaded.site, plan)
        except TimeoutError as error:
            raise ReloadError(f"the new site was not ready within {PREPARE_TIMEOUT:.0f} s") from error
        except OSError as error:
            raise ReloadError(str(error)) from error
        except ConfigError:
            raise
        except ScalesocketError as error:
            raise ReloadError(str(error)) from error

    def _apply(self, site: Site, plan: Plan, prepared: Sequence[Preparation]) -> None:
        """The one step that changes the running site. It waits for nothing, so nobody sees half of it."""
        try:
            self._gateway.apply(site)
        except BaseException:
            roll_back_all(prepared)
            raise
        commit_all(prepared)
        if "log" in _keys(plan):
            set_log(site.server.log.format, site.server.log.level)
        self._state.generation += 1
        self._state.applied_at = time.time()
        self._state.note_error(None, None)

    def _unchanged(self, trigger: str) -> None:
        if self._state.last_error is not None:
            self._state.note_error(None, None)
            log.info("the site file is again what runs", trigger=trigger, generation=self._state.generation)
        elif trigger not in ("start", "edit"):
            log.info("nothing to reload", trigger=trigger, generation=self._state.generation)

    def _refused(self, trigger: str, error: ConfigError | ReloadError) -> None:
        self._state.note_error(str(error), redact_error(error))
        lines = str(error).splitlines()
        for line in lines[:MAX_LOGGED]:
            log.error(line)
        more = {"and_more": len(lines) - MAX_LOGGED} if len(lines) > MAX_LOGGED else {}
        log.error("not reloaded, the site runs as before", trigger=trigger, generation=self._state.generation, **more)

    def _report(self, site: Site, plan: Plan, *, is_renewed: bool) -> ReloadReport:
        changes = find_affected(plan, self._gateway.site, site, self._gateway.status())
        return ReloadReport(
            is_applied=False,
            generation=self._state.generation,
            changes=(*changes, RENEWED) if is_renewed else changes,
        )


def _keys(plan: Plan) -> set[str]:
    """The keys of the server's table that differ."""
    return {change.key for change in plan.server}


def _words(plan: Plan, is_renewed: bool) -> str:
    """The plan for one line of the log."""
    return "; ".join([*([] if plan.is_empty else [str(plan)]), *(["certificates renewed"] if is_renewed else [])])
