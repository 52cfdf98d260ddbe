"""A worker's end of edits: prepares what the supervisor sends, and applies it on command."""

import os
import pickle
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import anyio
import msgspec
import structlog

from scalesocket.config.model import Site
from scalesocket.config.plan import Plan, make_plan
from scalesocket.control.messages import AffectedKey
from scalesocket.errors import ScalesocketError
from scalesocket.logs import set_log
from scalesocket.reload.affected import find_affected
from scalesocket.reload.preparation import Preparation, commit_all, prepare_all, roll_back_all
from scalesocket.server.listen import Change
from scalesocket.server.service import Service
from scalesocket.server.tls import load_tls_of
from scalesocket.workers.edit_messages import (
    CommitEdit,
    Edit,
    EditPart,
    FindAffected,
    PrepareEdit,
    RestartApp,
    RollBackEdit,
    read_edit,
)
from scalesocket.workers.link import Handlers

log = structlog.get_logger("worker")

decode_part: Final = msgspec.msgpack.Decoder(EditPart).decode


class EndingError(ScalesocketError):
    """This worker drains, and takes no more edits. Its successor starts with the site in force."""


class RolledBackError(ScalesocketError):
    """The supervisor has rolled the edit back meanwhile, or has begun another."""


class EditedWorker:
    """The edits of a worker's site. At most one is prepared at a time."""

    def __init__(self, service: Service, *, is_ending: Callable[[], bool], on_failed: Callable[[], None]) -> None:
        """Edit the site of `service`. `is_ending`: whether this worker drains alone. `on_failed`: a bug has broken the site."""
        self._service = service
        self._gateway = service.gateway
        self._is_ending = is_ending
        self._on_failed = on_failed
        self._number = 0
        """Of the newest edit of which anything has arrived."""
        self._is_over = True
        """Whether that was applied or rolled back."""
        self._parts: dict[int, int] = {}
        """Descriptors of that edit."""
        self._arrived = anyio.Event()
        self._preparing = anyio.CancelScope()
        self._prepared: tuple[Edit, list[Preparation]] | None = None

    def add_handlers(self, handlers: Handlers) -> None:
        """Serve the messages of the supervisor."""
        handlers.add(PrepareEdit, self.prepare)
        handlers.add(CommitEdit, self.commit)
        handlers.add(RollBackEdit, self.roll_back)
        handlers.add(FindAffected, self.find_affected)
        handlers.add(RestartApp, self.restart_app)

    def receive(self, details: bytes, fd: int) -> None:
        """Take a descriptor of an edit from the inbox."""
        part = decode_part(details)
        self._begin(part.number)
        if part.number < self._number or self._is_over or part.part in self._parts:
            os.close(fd)  # it was sent to a predecessor, or too late
            return
        self._parts[part.part] = fd
        self._arrived.set()

    async def prepare(self, message: PrepareEdit) -> None:
        """Open what an edit needs, once all of its parts have arrived. Raises what makes it impossible."""
        if self._is_ending():
            raise EndingError("this worker is ending")
        self._begin(message.number)
        if message.number < self._number or self._is_over:
            raise RolledBackError("the edit was rolled back")
        with anyio.CancelScope() as self._preparing:
            while len(self._parts) < message.parts:
                self._arrived = anyio.Event()
                await self._arrived.wait()
            fds = [self._parts.pop(part) for part in range(message.parts)]
            try:
                prepared = await self._open(fds)
            except OSError as error:
                raise ScalesocketError(f"a worker cannot open what the site needs ({error.strerror or error})") from error
            if message.number == self._number and not self._is_over:
                self._prepared = prepared
                return
            roll_back_all(prepared[1])  # the rollback came when there was nothing left to cancel
        raise RolledBackError("the edit was rolled back")

    def commit(self, message: CommitEdit) -> None:
        """Apply the edit that is prepared. Connections that wait for it are then served."""
        if self._prepared is None or self._prepared[0].number != message.number:
            log.error("edit not applied: it is not prepared", number=message.number)
            self._on_failed()
            return
        (edit, prepared), self._prepared, self._is_over = self._prepared, None, True
        old = self._gateway.site.server.log
        try:
            self._gateway.apply(edit.site)
        except Exception:
            log.exception("applying an edit failed", hint="this worker is replaced")
            roll_back_all(prepared)
            self._on_failed()
            return
        commit_all(prepared)
        if edit.site.server.log != old:
            set_log(edit.site.server.log.format, edit.site.server.log.level)
        self._gateway.reload_state.advance(edit.generation, time.time())

    def roll_back(self, message: RollBackEdit) -> None:
        """Forget an edit, of which parts may still arrive."""
        self._begin(message.number)
        if message.number == self._number:
            self._end()

    def close(self) -> None:
        """Forget the edit that is being prepared."""
        self._end()

    def find_affected(self, message: FindAffected) -> tuple[AffectedKey, ...]:
        """List the changes to a site, with the rooms and clients here that they affect."""
        gateway = self._gateway
        site: Site = pickle.loads(message.site)  # written by the supervisor
        return find_affected(make_plan(gateway.site, site), gateway.site, site, gateway.status(), gateway.identities_of)

    def restart_app(self, message: RestartApp) -> int:
        """Restart the rooms of an app, which an edit that is applied later here may add."""
        return self._gateway.restart_app(message.app) if message.app in self._gateway.pools else 0

    def _begin(self, number: int) -> None:
        """Make an edit the current one, if it is newer."""
        if number > self._number:
            self._end()
            self._number, self._is_over = number, False

    def _end(self) -> None:
        """Release what belongs to the current edit."""
        self._preparing.cancel()
        self._is_over = True
        if self._prepared is not None:
            roll_back_all(self._prepared[1])
            self._prepared = None
        for fd in self._parts.values():
            os.close(fd)
        self._parts.clear()

    async def _open(self, fds: list[int]) -> tuple[Edit, list[Preparation]]:
        """Prepare an edit, whose parts are `fds`. Raises ScalesocketError and OSError."""
        socks = [socket.socket(fileno=fd) for fd in fds[1:]]
        try:
            edit = read_edit(fds[0])
            tls = await load_tls_of(edit.site.server, edit.pair)
        except BaseException:
            for sock in socks:
                sock.close()
            raise

        async def prepare_listeners(_: Site, __: Plan) -> Preparation:
            for sock in socks:
                sock.setblocking(False)
            given = dict(zip(edit.addresses, socks, strict=True))
            return GivenListeners(self._service.listeners.prepare_given(tls, given))

        authenticators = self._gateway.admission.authenticators
        prepare_auth = partial(authenticators.prepare, contents=edit.auth_files)
        return edit, await prepare_all([prepare_listeners, prepare_auth], edit.site, Plan())


class GivenListeners:
    """Listeners at sockets of the supervisor (`Preparation`)."""

    def __init__(self, change: Change) -> None:
        self._change = change
        self.roll_back = change.roll_back

    def commit(self) -> None:
        """Accept at the sockets, except those at which the supervisor could not listen."""
        for address, listener in tuple(self._change.listeners.items()):
            if not listener.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                del self._change.listeners[address]
        self._change.commit()
