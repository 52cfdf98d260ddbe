"""Applies edits of the site file to the running site, or logs why not.

Owns the order of the steps: read and parse, plan, prepare what can fail, apply in one synchronous step. A failure before the
last step changes nothing. `run` is its one task, started by the supervisor; reloads run one at a time.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio
import msgspec
import structlog
from anyio import to_thread

from scalesocket.config.keys import Reload
from scalesocket.config.load import Loaded
from scalesocket.config.model import Site
from scalesocket.config.plan import Plan, make_plan
from scalesocket.config.problems import ConfigError
from scalesocket.control.messages import AffectedKey, ReloadReport
from scalesocket.errors import SHUTTING_DOWN, ScalesocketError
from scalesocket.logs import set_log
from scalesocket.reload.edited_site import EditedSite
from scalesocket.reload.overrides import NO_OVERRIDES, Overrides
from scalesocket.reload.preparation import Preparation, Prepare, commit_all, finish_all, prepare_all, roll_back_all, warnings_of
from scalesocket.reload.public_error import redact_error, redact_text
from scalesocket.reload.site_reader import SiteReader, digest_files, find_missing
from scalesocket.systemd import notify_ready, notify_reloading

log = structlog.get_logger("reload")

PREPARE_TIMEOUT: Final = 30.0
"""Seconds for all preparations together."""
RETRY: Final = 5.0
"""Seconds until the file is watched again after an unexpected exception."""
MAX_LOGGED: Final = 20
"""Problems of one edit that are logged, each in a line of its own."""


RENEWED: Final = {"server.tls": "certificates renewed", "cluster.tls": "certificates of the node renewed"}
"""How the log names changed files, by their key."""


class ReloadError(ScalesocketError):
    """A valid edit could not be applied; the site runs as before."""


class NoSuchAppError(ScalesocketError):
    """The site has no app of the name whose rooms are to be restarted; nothing was done."""


class Reloader:
    """Applies the site file to the running site: at each edit, and on request."""

    def __init__(
        self,
        edited: EditedSite,
        path: Path,
        *,
        prepare: Sequence[Prepare] = (),
        overrides: Overrides = NO_OVERRIDES,
        digests: Mapping[str, str] | None = None,
    ) -> None:
        """Reload `edited` from `path`.

        `prepare`: functions that open or load what an edit needs, called in this order, with an empty plan when only
        files changed that the site uses, such as certificates. `overrides`: the values from the command line. `digests`: those of
        these files (`digest_files`), from before they were loaded; by default those of now.
        """
        self._edited = edited
        self._state = edited.reload_state
        self._reader = SiteReader(path, overrides)
        self._prepare = tuple(prepare)
        self._digests = digest_files(edited.site) if digests is None else digests
        self._lock = anyio.Lock()
        self._trigger = ""
        self._requested = anyio.Event()

    async def run(self, *, is_watching: bool = True) -> None:
        """Apply every request and, with `is_watching`, every edit, also one made before this call. Never returns."""
        async with anyio.create_task_group() as tasks:
            if is_watching:
                tasks.start_soon(self._watch, name="watch the site file")
            while True:
                await self._requested.wait()
                self._requested = anyio.Event()
                await self._try(self._trigger)

    def request(self, trigger: str) -> None:
        """Request a reload. Requests before it begins count as one. `trigger`, such as `SIGHUP`, is logged."""
        self._trigger = trigger
        self._requested.set()

    async def reload(self, trigger: str, *, dry_run: bool = False, restart: str | None = None) -> ReloadReport:
        """Apply the site file, then restart the rooms of the app `restart`. With `dry_run`, do all but these two steps.

        Raises ConfigError when the file has errors, ReloadError when it cannot be applied, and NoSuchAppError for
        `restart`. The site then runs as before. Unless it is a dry run, the first two are logged, and `/ready` shows them.
        """
        async with self._lock:
            if dry_run:
                return await self._reload(trigger, is_dry=True, restart=restart)
            if trigger != "start":
                notify_reloading()
            try:
                return await self._reload(trigger, is_dry=False, restart=restart)
            except (ConfigError, ReloadError) as error:
                if trigger != "start" or not self._edited.is_draining:  # a server that stops while it starts was not edited
                    self._log_refused(trigger, error)
                raise
            finally:
                if trigger != "start":
                    notify_ready()

    async def diff(self) -> ReloadReport:
        """Compare the file with the running site, without preparing anything. Raises ConfigError."""
        async with self._lock:
            loaded = await self._reader.read()
            return await self._report(loaded.site, make_plan(self._edited.site, loaded.site), renewed=())

    async def _watch(self) -> None:
        await self._try("start")
        while True:
            try:
                await self._reader.wait_changed()
            except Exception:  # a bug, which must not end the site
                log.exception("watching the site file failed", retry_in=RETRY)
                await anyio.sleep(RETRY)
            await self._try("edit")

    async def _try(self, trigger: str) -> None:
        with suppress(ConfigError, ReloadError):  # already logged
            await self.reload(trigger)

    async def _reload(self, trigger: str, *, is_dry: bool, restart: str | None) -> ReloadReport:
        if self._edited.is_draining:
            raise ReloadError(SHUTTING_DOWN.reason)
        try:
            loaded = await self._reader.read()
            site, plan = loaded.site, make_plan(self._edited.site, loaded.site)
            if restart is not None and restart not in site.apps:
                raise NoSuchAppError(f"there is no app {restart!r} to restart (one of: {', '.join(site.apps)})")
            digests = await to_thread.run_sync(digest_files, site, abandon_on_cancel=True)
            refuse_fixed(plan)
            renewed = self._find_renewed(digests, plan)
            report = await self._report(site, plan, renewed=renewed)
            prepared = await self._prepare_all(loaded, plan) if report.changes else []
            warnings = warnings_of(prepared) if report.changes else self._state.warnings
            report = msgspec.structs.replace(report, warnings=warnings)
            if is_dry:
                roll_back_all(prepared)
                return report
            if self._edited.is_draining:  # it began while the file was read
                roll_back_all(prepared)
                raise ReloadError(SHUTTING_DOWN.reason)
            if report.changes:
                self._apply(site, plan, prepared)
                await finish_all(prepared)
                log.info("reloaded", trigger=trigger, generation=self._state.generation, changes=_describe(plan, renewed))
        except ScalesocketError:
            raise
        except Exception as error:
            log.exception("reload failed", trigger=trigger)
            raise ReloadError(f"the server failed ({type(error).__name__}: {error})") from error
        self._digests = digests
        if not report.changes:
            self._log_unchanged(trigger)
        restarted = 0 if restart is None else await self._edited.restart_app(restart)
        return msgspec.structs.replace(
            report, is_applied=bool(report.changes), generation=self._state.generation, restarted=restarted
        )

    async def _prepare_all(self, loaded: Loaded, plan: Plan) -> list[Preparation]:
        """Check everything that the site needs, and open it. Raises ReloadError or ConfigError."""
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
        """Change the running site in one step: without waiting, so that no client sees half of it."""
        try:
            self._edited.apply(site)
        except BaseException:
            roll_back_all(prepared)
            raise
        commit_all(prepared)
        if "log" in _keys(plan):
            set_log(site.server.log.format, site.server.log.level)
        warnings = warnings_of(prepared)
        self._state.note_warnings(warnings, redact_text(warnings[0]) if warnings else None)
        self._state.advance(self._state.generation + 1, time.time())

    def _log_unchanged(self, trigger: str) -> None:
        if self._state.last_error is not None:
            self._state.note_error(None, None)
            log.info("site file matches the running site again", trigger=trigger, generation=self._state.generation)
        elif trigger not in ("start", "edit"):
            log.info("nothing to reload", trigger=trigger, generation=self._state.generation)

    def _log_refused(self, trigger: str, error: ConfigError | ReloadError) -> None:
        self._state.note_error(str(error), redact_error(error))
        lines = str(error).splitlines()
        for line in lines[:MAX_LOGGED]:
            log.error(line)
        more = {"and_more": len(lines) - MAX_LOGGED} if len(lines) > MAX_LOGGED else {}
        log.error("not reloaded, the site runs as before", trigger=trigger, generation=self._state.generation, **more)

    def _find_renewed(self, digests: Mapping[str, str], plan: Plan) -> Sequence[str]:
        """Return the keys whose files have other contents, although the keys themselves did not change."""
        changed = {f"server.{key}" for key in _keys(plan)}
        changed |= {f"apps.{app.name}.{change.key}" for app in plan.changed for change in app.changes}
        return [key for key, digest in digests.items() if self._digests.get(key, digest) != digest and key not in changed]

    async def _report(self, site: Site, plan: Plan, *, renewed: Sequence[str]) -> ReloadReport:
        changes = await self._edited.find_affected(site, plan)
        return ReloadReport(
            is_applied=False,
            generation=self._state.generation,
            changes=(*changes, *(AffectedKey(path=key, kind="renewed", reload="live") for key in renewed)),
        )


def refuse_fixed(plan: Plan) -> None:
    """Raise ReloadError if a key changes that is fixed when the server starts."""
    found = [("server", change) for change in plan.server] + [("cluster", change) for change in plan.cluster]
    if fixed := [(table, change) for table, change in found if change.reload is Reload.FIXED]:
        changes = "; ".join(f"{table}.{one.key}: {one.old_text or 'none'} -> {one.new_text or 'none'}" for table, one in fixed)
        is_alone = len(found) == len(fixed) and not (plan.added or plan.removed or plan.changed)
        others = "" if is_alone else ", and nothing else of this edit is applied"
        raise ReloadError(
            f"{changes} (restart needed: the running server cannot change it{others}; restart it, or restore the old value)"
        )


def _keys(plan: Plan) -> set[str]:
    """The changed keys of the server's table."""
    return {change.key for change in plan.server}


def _describe(plan: Plan, renewed: Sequence[str]) -> str:
    """Describe the plan in one line for the log."""
    return "; ".join([*([] if plan.is_empty else [str(plan)]), *(RENEWED.get(key, f"{key} files changed") for key in renewed)])
