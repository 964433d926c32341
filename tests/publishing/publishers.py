"""Publishers of every kind, each a script of its own: ``python publishers.py KIND COUNT``.

Each publishes ``[name, 0]``, ``[name, 1]`` and so on to the channel ``news`` under one or several names; the
address comes from the environment. Run with ``-W error -X dev`` nothing may be said on stderr.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import everywire
from everywire.core.limits import Limits
from everywire.core.settings import Window

CHANNEL = "news"
WINDOW = Window(max_publications=20_000, max_bytes=16 << 20, max_age_s=600)
AUTHORS = 4


def publish_all(name: str, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        receipt = everywire.publish(CHANNEL, [name, number])
        assert receipt.result().offset > 0


def threads(count: int) -> None:
    """Several threads, each of which waits for every publication."""
    workers = [threading.Thread(target=publish_all, args=(f"thread{n}", count)) for n in range(AUTHORS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def runs(count: int) -> None:
    """One event loop after the other: some publications are awaited, some are not, in any of them."""

    async def some(first: int) -> None:
        for number in range(first, first + 10):
            receipt = everywire.publish(CHANNEL, ["runs", number])
            if number % 3 == 0:
                assert (await receipt).offset > 0

    for first in range(0, count, 10):
        asyncio.run(some(first))


def burst(count: int) -> None:
    """A loop that awaits nothing, and a process that ends at once."""

    async def main() -> None:
        for number in range(count):
            everywire.publish(CHANNEL, ["burst", number])
            if number % 50 == 0:
                await asyncio.sleep(0)

    asyncio.run(main())


def signals(count: int) -> None:
    """A handler of a signal that publishes in the middle of whatever else is done, publishing included."""
    import signal

    numbers = iter(range(count))

    def handle(*_: object) -> None:
        number = next(numbers, None)
        if number is None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        else:
            publish_all("handler", 1, number)
            signal.setitimer(signal.ITIMER_REAL, 0.0005)

    publish_all("main", 1)
    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005)
    publish_all("main", count - 1, 1)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    for number in numbers:
        publish_all("handler", 1, number)


def forks(count: int) -> None:
    """A process that has published forks, and forks again while its threads publish; all go on."""
    publish_all("parent", count // 2)
    busy = threading.Thread(target=publish_all, args=("beside", count))
    busy.start()
    children = []
    for name in ("child0", "child1"):
        pid = os.fork()
        if pid == 0:
            publish_all(name, count)
            sys.exit(0)
        children.append(pid)
    publish_all("parent", count - count // 2, count // 2)
    for pid in children:
        _, status = os.waitpid(pid, 0)
        assert status == 0
    busy.join()


def server(count: int) -> None:
    """A server's own process: its loop, its threads, and processes forked from it while it runs."""
    from everywire.core.settings import ChannelSettings, SettingsTable

    channels = SettingsTable(default=ChannelSettings(window=WINDOW))
    wire = everywire.Everywire(os.environ.pop("EVERYWIRE_URL"), channels=channels, limits=LIMITS)
    everywire.configure(None)  # its children have to find its broker by themselves

    async def main() -> None:
        await wire.start()
        for number in range(count):
            everywire.publish(CHANNEL, ["loop", number])
            if number % 50 == 0:
                await asyncio.sleep(0.001)
        await asyncio.gather(
            asyncio.to_thread(publish_all, "thread", count), asyncio.to_thread(fork_one, "child", count)
        )
        await wire.close()

    asyncio.run(main())


def fork_one(name: str, count: int) -> None:
    pid = os.fork()
    if pid == 0:
        publish_all(name, count)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def bare_fork(count: int) -> None:
    """A fork in C, of which Python is told only in the child, as uWSGI does it: no thread ended before."""
    import ctypes

    publish_all("parent", count // 2)
    python = ctypes.PyDLL(None)
    pid = python.fork()
    if pid == 0:
        python.PyOS_AfterFork_Child()
        publish_all("child", count)
        sys.exit(0)
    publish_all("parent", count - count // 2, count // 2)
    assert os.waitpid(pid, 0)[1] == 0


def pool(count: int) -> None:
    """Children of `multiprocessing` that end without waiting for what they published."""
    import multiprocessing

    context = multiprocessing.get_context("fork")
    publish_all("parent", 1)
    children = [context.Process(target=burst_as, args=(f"child{n}", count)) for n in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0


def burst_as(name: str, count: int) -> None:
    async def main() -> None:
        for number in range(count):
            everywire.publish(CHANNEL, [name, number])
            if number % 50 == 0:
                await asyncio.sleep(0)

    asyncio.run(main())


def celery_with(pool: str, count: int, **options: Any) -> None:
    import celery
    from celery.contrib.testing.worker import start_worker

    app = celery.Celery("publishers", broker="memory://")
    app.conf.update(
        worker_hijack_root_logger=False,
        broker_transport_options={"polling_interval": 0.01},
        task_ignore_result=True,
    )
    # Of what is done a file tells: a backend in memory is not shared by processes.
    with tempfile.TemporaryFile(buffering=0) as done:

        @app.task(name="tell")  # type: ignore[untyped-decorator]
        def tell(name: str, first: int, many: int) -> None:
            publish_all(name, many, first)
            done.write(b".")

        names = ("task0",) if pool != "threads" else ("task0", "task1")
        with start_worker(app, perform_ping_check=False, pool=pool, loglevel="error", **options):
            for first in range(0, count, 250):
                for name in names:
                    tell.delay(name, first, 250)
                while os.fstat(done.fileno()).st_size < len(names) * (first // 250 + 1):
                    time.sleep(0.01)


def celery_threads(count: int) -> None:
    """A Celery worker whose tasks run in threads."""
    celery_with("threads", count, concurrency=2)


def celery_prefork(count: int) -> None:
    """A Celery worker whose tasks run in a process that was forked from one that had published."""
    publish_all("parent", 1)
    celery_with("prefork", count, concurrency=1)


def celery_solo(count: int) -> None:
    """A Celery worker whose tasks run one after the other."""
    celery_with("solo", count)


def django(count: int) -> None:
    """A view of Django behind a WSGI server with a thread for each request."""
    import http.client
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpRequest, HttpResponse
    from django.urls import path

    def view(request: HttpRequest) -> HttpResponse:
        name, first = request.GET["name"], int(request.GET["first"])
        publish_all(name, 10, first)
        return HttpResponse(str(first))

    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1"], SECRET_KEY="x", USE_TZ=True)
    globals()["urlpatterns"] = [path("tell", view)]

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = False

    class Handler(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with make_server("127.0.0.1", 0, get_wsgi_application(), Server, Handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()

        def browse(name: str) -> None:
            for first in range(0, count, 10):
                client = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
                client.request("GET", f"/tell?name={name}&first={first}")
                assert client.getresponse().read() == str(first).encode()
                client.close()

        browsers = [threading.Thread(target=browse, args=(f"view{n}",)) for n in range(2)]
        for browser in browsers:
            browser.start()
        for browser in browsers:
            browser.join()
        server.shutdown()
        serving.join()


KINDS: dict[str, tuple[Callable[[int], None], dict[str, int]]] = {
    "threads": (threads, {f"thread{n}": 1 for n in range(AUTHORS)}),
    "runs": (runs, {"runs": 1}),
    "burst": (burst, {"burst": 1}),
    "forks": (forks, {"parent": 1, "beside": 1, "child0": 1, "child1": 1}),
    "signals": (signals, {"main": 1, "handler": 1}),
    "bare-fork": (bare_fork, {"parent": 1, "child": 1}),
    "server": (server, {"loop": 1, "thread": 1, "child": 1}),
    "pool": (pool, {"parent": 0, "child0": 1, "child1": 1}),
    "celery-threads": (celery_threads, {"task0": 1, "task1": 1}),
    "celery-solo": (celery_solo, {"task0": 1}),
    "celery-prefork": (celery_prefork, {"parent": 0, "task0": 1}),
    "django": (django, {"view0": 1, "view1": 1}),
}
"""What there is, and under which names it publishes how often: the count, or once for 0."""

LIMITS = Limits(publish_timeout_s=90, broker_timeout_s=60)
"""How long anything takes here says how busy the machine is."""

if __name__ == "__main__":
    everywire.configure(os.environ["EVERYWIRE_URL"], limits=LIMITS)
    KINDS[sys.argv[1]][0](int(sys.argv[2]))
