"""Operations on all workers and their status, as the supervisor asks for them: over links to scripted workers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from typing import Any, Final, cast

import anyio
import msgspec
import pytest

from scalesocket.auth.files import AuthFiles
from scalesocket.cli.status import format_status
from scalesocket.config.model import App
from scalesocket.control.messages import Caller, Drain, Outcome, Restart, Status, Stop, Tail
from scalesocket.operations.lookup import NotFoundError, OperationError
from scalesocket.overview import Readiness, UnavailableError
from scalesocket.server.listen import Listeners
from scalesocket.status import SiteStatus
from scalesocket.workers import merged_overview
from scalesocket.workers.edit_messages import CommitEdit, PrepareEdit
from scalesocket.workers.edits import Edits
from scalesocket.workers.link import Handlers, Link
from scalesocket.workers.operator_service import OperatorService, open_operator_service
from scalesocket.workers.site_messages import GetReadiness, GetRooms, GetStatus, LastStatus, Missing, Ran, Release, Run, WaitEnded
from scalesocket.workers.slot import Worker
from scalesocket.workers.workers import Workers
from tests.server.general import make_site
from tests.workers.linking import open_pair
from tests.workers.test_merge import app_status, site_status

pytestmark = pytest.mark.anyio

CALLER: Final = Caller(via="test", name="test")
STOP: Final = Stop(app="chat", room="*", wait=5.0)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


def ran(rooms: int, held: int | None = None) -> Ran:
    return Ran(result=msgspec.Raw(msgspec.msgpack.encode(Outcome(rooms=rooms, clients=0))), held=held)


NOT_HERE: Final = Ran(missing=Missing(text="not here", certainty=0))


class Scripted:
    """A worker that answers as it is told."""

    def __init__(self) -> None:
        self.answer: Ran = ran(1)
        self.status: SiteStatus | None = site_status(app_status(rooms=("a",)))
        """None: it does not answer."""
        self.wait: Callable[[WaitEnded], Any] = lambda _: Outcome(rooms=1, clients=0, pending=0)
        self.asked: list[Run] = []
        self.released: list[int] = []
        self.edited = anyio.Event()
        self.link: Link

    def handlers(self) -> Handlers:
        handlers = Handlers()
        handlers.add(Run, self.run)
        handlers.add(WaitEnded, lambda message: self.wait(message))
        handlers.add(Release, lambda message: self.released.append(message.held))
        handlers.add(GetStatus, self.get_status)
        handlers.add(PrepareEdit, lambda _: None)
        handlers.add(CommitEdit, lambda _: self.edited.set())
        handlers.add(GetRooms, lambda _: [] if self.status is not None else anyio.sleep_forever())
        return handlers

    def run(self, message: Run) -> Ran:
        self.asked.append(message)
        return self.answer

    async def get_status(self, _: object) -> SiteStatus:
        if self.status is None:
            await anyio.sleep_forever()
        assert self.status is not None
        return self.status


class Server:
    """A supervisor with scripted workers."""

    def __init__(self, workers: Workers, operators: OperatorService, stack: AsyncExitStack) -> None:
        self.workers = workers
        self.operators = operators
        self.scripted = [Scripted() for _ in workers.members]
        self._stack = stack

    async def start(self, index: int) -> None:
        """Start the process of a worker."""
        worker, scripted = self.workers.members[index], self.scripted[index]
        near, far = Handlers(), scripted.handlers()
        for install in self.workers.installs:
            install(worker, near)
        worker.has_served = True
        worker.link, scripted.link = await self._stack.enter_async_context(open_pair(near, far))
        for call in worker.on_ready:
            call(worker)

    async def stop(self, index: int) -> None:
        """End the process of a worker."""
        self.scripted[index].link.close()
        self.workers.members[index].link = None

    async def replace(self, index: int) -> None:
        """End the process of a worker, and start another."""
        await self.stop(index)
        self.workers.members[index].restarts += 1
        await self.start(index)

    async def run(self, request: Any) -> Any:
        return await self.operators.operations.run(request, CALLER)

    async def settled(self) -> None:
        """Wait until all notes so far have arrived."""
        for worker in self.workers.members:
            if worker.link is not None and worker.link.is_open:
                await worker.link.call(Run(Drain(app="settled")), Ran)


@asynccontextmanager
async def open_server(count: int = 2, *, started: int = 2) -> AsyncIterator[Server]:
    workers = Workers(make_site(App(name="chat", command=["cat"])), count=count, loop="uvloop", open_files=100)
    async with AsyncExitStack() as stack:
        stack.callback(workers.close)
        operators = await stack.enter_async_context(open_operator_service(workers))
        server = Server(workers, operators, stack)
        for index in range(started):
            await server.start(index)
        yield server


async def test_a_wait_is_for_the_rooms_of_all_workers_and_what_they_hold_is_released() -> None:
    async with open_server() as server:
        one, two = server.scripted
        one.answer, two.answer = ran(1, held=4), ran(2, held=5)
        two.wait = lambda message: Outcome(rooms=2, clients=0, pending=int(message.seconds))

        assert await server.run(STOP) == Outcome(rooms=3, clients=0, pending=5)
        await server.settled()
        assert (one.released, two.released) == ([4], [5])


async def test_the_rooms_of_a_worker_that_ends_meanwhile_have_ended() -> None:
    async with open_server() as server:
        one, two = server.scripted
        one.answer, two.answer = ran(1, held=4), ran(2, held=5)

        async def end(_: WaitEnded) -> None:
            two.link.close()
            await anyio.sleep_forever()

        two.wait = end

        assert await server.run(STOP) == Outcome(rooms=3, clients=0, pending=0)


async def test_a_caller_that_leaves_ends_the_waits_in_the_workers() -> None:
    begun = asyncio.Semaphore(0)

    async def wait_forever(_: WaitEnded) -> None:
        begun.release()
        await anyio.sleep_forever()

    async with open_server() as server:
        for scripted in server.scripted:
            scripted.answer, scripted.wait = ran(1, held=4), wait_forever
        waiting = asyncio.create_task(server.run(STOP))
        for _ in server.scripted:
            await asyncio.wait_for(begun.acquire(), 10)

        waiting.cancel()
        await asyncio.wait([waiting])
        await server.settled()

        assert [scripted.released for scripted in server.scripted] == [[4], [4]]


async def test_a_failure_in_one_worker_releases_what_the_others_hold() -> None:
    async with open_server() as server:
        one, two = server.scripted
        one.answer, two.answer = ran(1, held=4), Ran(error="broken")

        with pytest.raises(OperationError, match=r"worker 1: broken \(done in the other workers: 1 room\)"):
            await server.run(STOP)
        await server.settled()
        assert one.released == [4]


async def test_a_tail_of_too_many_rooms_is_refused_and_released() -> None:
    async with open_server() as server:
        for scripted in server.scripted:
            scripted.answer = ran(600, held=1)

        with pytest.raises(OperationError, match=r"1200 rooms match \(at most 1000"):
            await server.operators.operations.open_tail(Tail(app="chat", room="*"), CALLER)
        await server.settled()
        assert [scripted.released for scripted in server.scripted] == [[1], [1]]


async def test_successors_are_drained_too_until_an_edit_of_the_app() -> None:
    async with open_server() as server:
        await server.run(Drain(app="chat"))
        assert server.workers._make_setup(0).drained == ("chat",)
        await server.replace(1)  # its setup may have been made before
        await server.settled()
        assert [message.request for message in server.scripted[1].asked][:2] == [Drain(app="chat")] * 2

        site = server.workers.site
        server.workers.site = site.model_copy(update={"server": site.server.model_copy(update={"drain_timeout": 1.0})})
        assert server.workers._make_setup(0).drained == ("chat",)
        server.workers.site = make_site(App(name="chat", command=["cat", "-u"]))
        assert server.workers._make_setup(0).drained == ()
        server.workers.site = site
        assert server.workers._make_setup(0).drained == ()


async def test_an_edit_that_a_worker_gets_after_a_drain_does_not_lift_the_drain() -> None:
    async with open_server() as server, anyio.create_task_group() as tasks:
        workers, (one, two) = server.workers, server.scripted
        with closing(
            Edits(workers, server.operators.gateway.admission, cast(Listeners, None), cast(AuthFiles, None), tasks)
        ) as edits:
            workers.site = make_site(App(name="chat", command=["cat", "-u"]))
            workers.generation = workers.members[0].generation = 2  # the other worker was starting
            await server.run(Drain(app="chat"))
            assert [message.request for message in two.asked] == [Drain(app="chat")]

            edits.check_all()
            with anyio.fail_after(5):
                await two.edited.wait()
            await server.settled()

        assert [message.request for message in two.asked] == [Drain(app="chat")] * 2 + [Drain(app="settled")]
        assert [message.request for message in one.asked] == [Drain(app="chat"), Drain(app="settled")]


async def test_a_drain_that_no_worker_has_done_is_not_remembered() -> None:
    async with open_server() as server:
        for scripted in server.scripted:
            scripted.answer = Ran(error="invalid time to wait")
        for request in (Drain(app="chat", wait=-1.0), Drain(wait=-1.0)):
            with pytest.raises(OperationError, match="invalid time"):
                await server.run(request)

        setup = server.workers._make_setup(0)
        assert (setup.drained, setup.is_draining, server.operators.gateway.is_draining) == ((), False, False)
        server.scripted[0].answer = ran(0)
        with pytest.raises(OperationError, match="worker 1: invalid"):
            await server.run(Drain())
        assert server.workers._make_setup(0).is_draining
        assert server.operators.gateway.is_draining


async def test_without_any_worker_operations_fail_with_a_reason() -> None:
    async with open_server() as server:
        for worker in server.workers.members:
            worker.link = None

        with pytest.raises(OperationError, match="no worker is running"):
            await server.run(Restart(app="chat"))
        status = await server.run(Status())
        assert [worker.state for worker in status.workers] == ["starting", "starting"]


async def test_the_server_is_not_ready_before_every_worker_has_served_and_while_none_serves() -> None:
    async with open_server(started=0) as server:
        found = []
        for step in (lambda: server.start(0), lambda: server.start(1), lambda: server.stop(0), lambda: server.stop(1)):
            found.append((await server.operators.overview.find_readiness()).is_starting)
            await step()
        status = await server.run(Status())

        assert found == [True, True, False, False]
        assert status.is_starting
        assert next(iter(format_status(status, with_rooms=False))).startswith("starting, generation 1")
        assert [app.name for app in status.apps] == ["chat"]
        assert (await server.operators.overview.find_readiness()).is_starting


async def let_others_run() -> None:
    """Let all tasks run until they wait for something."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_few_workers_start_at_a_time() -> None:
    workers = Workers(make_site(App(name="chat", command=["cat"])), count=6, loop="uvloop", open_files=100)
    workers.starts_at_once = 2
    started: list[int] = []

    async def run(worker: Worker) -> None:
        started.append(worker.index)

    for worker in workers.members:
        worker.run = lambda _, worker=worker: run(worker)  # type: ignore[method-assign,assignment,misc]
    running = asyncio.create_task(workers.run())
    counts = []
    for worker in workers.members[:3]:
        await let_others_run()
        counts.append(len(started))
        worker.settled.set()
    await let_others_run()
    assert (counts, started) == ([2, 3, 4], [0, 1, 2, 3, 4])

    for worker in workers.members:
        worker.retire()
    await running
    workers.close()


async def test_the_totals_of_a_removed_app_are_forgotten() -> None:
    async with open_server() as server:
        site = server.workers.site
        await server.run(Status())
        await server.stop(1)
        assert (await server.run(Status())).apps[0].rooms_total == 2

        server.workers.site = make_site(App(name="other", command=["cat"]))
        server.workers.site = site

        assert (await server.run(Status())).apps[0].rooms_total == 1


async def test_an_app_that_no_worker_knows_is_not_found() -> None:
    async with open_server() as server:
        for scripted in server.scripted:
            scripted.answer = NOT_HERE
        with pytest.raises(NotFoundError, match="not here"):
            await server.run(Restart(app="chat"))


async def test_a_silent_worker_keeps_its_last_numbers_and_lists_are_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_server() as server:
        await server.run(Status())
        server.scripted[1].status = None
        monkeypatch.setattr(merged_overview, "WORKER_TIMEOUT", 0.5)  # the other worker answers at once

        status = await server.run(Status())

        assert [(worker.state, worker.rooms) for worker in status.workers] == [("serving", 1), ("silent", 1)]
        assert status.apps[0].rooms_total == 2
        with pytest.raises(UnavailableError, match="did not answer"):
            await server.operators.overview.list_rooms("chat")


async def test_the_totals_of_a_process_that_has_ended_are_kept_once() -> None:
    async with open_server() as server:
        await server.run(Status())
        ending = site_status(app_status(rooms=("a", "b")))
        server.scripted[1].link.notify(LastStatus(ending))
        await server.scripted[1].link.call(GetReadiness(), Readiness)  # so the note has arrived
        server.scripted[1].status = site_status(app_status(rooms=("c",)))
        await server.replace(1)

        for _ in range(2):
            status = await server.run(Status())
            assert status.apps[0].rooms_total == 1 + 2 + 1
            assert [room.name for room in status.apps[0].rooms] == ["a", "c"]
            assert [worker.restarts for worker in status.workers] == [0, 1]
        server.scripted[1].link.close()
        server.workers.members[1].link = None
        assert (await server.run(Status())).apps[0].rooms_total == 4
