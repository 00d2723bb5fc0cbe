"""`matinee serve`: the embedded server if no other is named, the checks, then web processes under gunicorn.

One way to serve for any number of web processes. The master process holds the listening socket, owns the
embedded server, and replaces what dies: a web process, or Valkey itself (requests in between get 503). It
does so at once the first time, and ever more slowly while the new one dies young as well.

SIGTERM or Ctrl-C drains the web processes (see `draining`), then stops Valkey; a second Ctrl-C hurries.
SIGHUP reads the programme's file anew and puts new web processes in the place of the old without refusing or losing a
request. They are forked from the master, and so have the code that it has loaded: another version takes over by a start
of its own, on the socket or the port of this one (see `listening`).
"""

import contextlib
import gc
import importlib.util
import logging
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from aiohttp import web
from aiohttp.worker import GunicornUVLoopWebWorker, GunicornWebWorker
from gunicorn import glogging  # type: ignore[import-untyped]  # gunicorn has no types
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]  # gunicorn has no types
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]  # gunicorn has no types
from gunicorn.errors import HaltServer  # type: ignore[import-untyped]  # gunicorn has no types
from redis.asyncio import ConnectionPool, RedisCluster
from redis.backoff import ExponentialBackoff

from service import __version__, metrics
from service.deployment import Deployment, inspect
from service.draining import DrainingRunner
from service.embedded import EmbeddedServer, EmbeddedServerError
from service.listening import BACKLOG, ListenError, handed_over, ignore_connection_attempts, listen
from service.pools import pool_for
from service.preflight import PreflightError
from service.programme import Programme, ProgrammeError, programme_from
from service.readiness import Supervisor
from service.settings import Settings

log = logging.getLogger(__name__)

CreateApp = Callable[[Settings, Programme, ConnectionPool | RedisCluster], web.Application]

GRACE_S = 30  # for requests that run when the end is asked for
YOUNG_S = 10.0  # a process that ends younger than this is not started again at once
SLOWEST_RESTART_S = 30.0
STEPS = 16  # of the back-off; redis-py computes 2 to their power, and cannot beyond 1023
REWRITE_CHECK_S = 600.0
# Objects that are made before the garbage collector looks at the young ones. A thousand requests at a time make some
# 60,000, all in use: Python's own 700 has them looked at again and again, a fifth of their cost (docs/performance.md).
GC_THRESHOLD = 50_000
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class ServeError(Exception):
    """The web processes cannot start; the message is one line that says why."""


# Each of these stops the start with its one line.
CANNOT_START = (EmbeddedServerError, ListenError, PreflightError, ProgrammeError, ServeError)


def serve(settings: Settings, programme: Programme, create_app: CreateApp) -> NoReturn:
    """Serve until told to end; leaves by SystemExit, with code 0 after SIGTERM or SIGINT.

    `create_app` is called in each web process, with a pool of its own. Call this from the main thread.
    Raises one of CANNOT_START when it cannot start.
    """
    for number in (signal.SIGTERM, signal.SIGINT):  # until the master has its own handlers
        signal.signal(number, _leave)
    supervisor = Supervisor()
    given = handed_over(settings)
    _allow_many_connections()
    embedded = None if settings.redis_url else EmbeddedServer.start(settings.data_dir, settings.durability)
    try:
        url = embedded.url if embedded else settings.redis_url
        assert url is not None  # noqa: S101  one of the two is there
        where = f"embedded, data in {embedded.data_dir}" if embedded else ""
        store = inspect(url, settings.wait_replicas, where=where)
        listener = given or listen(settings.host, settings.port, shares=settings.share_port)
        _announce(settings, programme, listener, store)
        _keep_shared()
        with metrics.shared_folder():
            app = Web(settings, programme, create_app, url, listener)
            Master(app, embedded, supervisor, owns_socket=given is None).run()
    finally:
        if embedded:
            embedded.stop()
    raise SystemExit(0)


class Web(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """What gunicorn asks for: its settings, and in each web process the application.

    Web processes report to the master over a pipe, one line each time: an empty one when they serve, a reason
    when they cannot start.
    """

    def __init__(
        self,
        settings: Settings,
        programme: Programme,
        create_app: CreateApp,
        url: str,
        listener: socket.socket,
    ) -> None:
        self._settings = settings
        self._programme = programme
        self._create_app = create_app
        self._url = url
        self._listener = listener.detach()
        self.own_listener: socket.socket | None = None  # a web process has a descriptor of the same socket for itself
        self.reports, self._reporting = os.pipe()
        os.set_blocking(self.reports, False)
        super().__init__()

    def load_config(self) -> None:
        """Gunicorn's settings; its own default stands where nothing is said."""
        for name, value in {
            "bind": f"fd://{self._listener}",
            "workers": self._settings.workers,
            "worker_class": WebProcess,
            "graceful_timeout": GRACE_S,
            "backlog": BACKLOG,
            "control_socket_disable": True,
            "logger_class": Log,
            "loglevel": "warning",
            "post_fork": lambda master, _worker: master.after_fork(),
            "child_exit": lambda master, worker: master.worker_ended(worker),
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Callable[[], Any]:
        """What a web process calls to get its runner."""
        return self._runner

    def report(self, line: str) -> None:
        """Tell the master."""
        os.write(self._reporting, f"{line}\n".encode())

    def reread_programme(self) -> None:
        """For the web processes to come: the programme as its file has it now. Raises ProgrammeError."""
        if self._settings.programme is not None:
            self._programme = programme_from(self._settings)
            log.info("programme: %s", summary(self._programme))
        _keep_shared()

    async def _runner(self) -> web.AppRunner:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)  # the event loop runs: see `init_signals`
        pool = pool_for(self._url)
        app = self._create_app(self._settings, self._programme, pool)
        gc.collect()
        gc.freeze()  # what is there now stays: no later collection needs to look at it
        gc.set_threshold(GC_THRESHOLD)
        return DrainingRunner(app, pool, grace_s=GRACE_S, listener=self.own_listener)


class Log(glogging.Logger):  # type: ignore[misc]  # gunicorn has no types
    """Gunicorn's warnings and errors, written like our own lines."""

    def setup(self, cfg: Any) -> None:
        """Leave the writing to `logs`."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


class Master(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """Gunicorn's master, which also looks after the embedded server and is patient with what keeps dying."""

    def __init__(
        self,
        app: Web,
        embedded: EmbeddedServer | None,
        supervisor: Supervisor,
        *,
        owns_socket: bool,
    ) -> None:
        super().__init__(app)
        self._embedded = embedded
        self._supervisor = supervisor
        self._owns_socket = owns_socket
        self._embedded_since = time.monotonic()
        self._embedded_is_down = False
        self._embedded_patience = Patience()
        self._next_rewrite_check = time.monotonic() + REWRITE_CHECK_S
        self._worker_patience = Patience()
        self._begun = 0
        self._is_ready = False

    def manage_workers(self) -> None:
        """Called about once a second, and at once when a child ends."""
        self._hear_workers()
        if self._embedded:
            self._tend(self._embedded)
        super().manage_workers()

    def spawn_workers(self) -> None:
        """Start what is missing, unless the last ones died young."""
        if self._worker_patience.is_over:
            super().spawn_workers()

    def spawn_worker(self) -> Any:
        """Fork a web process. A signal that comes meanwhile waits: so young a child would ignore it."""
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            return super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    def after_fork(self) -> None:
        """In the new web process: keep nothing of the master's; until it serves, a signal simply ends it."""
        for number in ENDING:
            signal.signal(number, lambda _number, _frame: os._exit(0))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        os.close(self.app.reports)
        if self._embedded:
            self._embedded.disown()

    def worker_ended(self, worker: "WebProcess") -> None:
        """One ended, whatever the reason."""
        self._worker_patience.lost(time.monotonic() - worker.started)
        metrics.process_ended(worker.pid)

    def handle_int(self) -> NoReturn:
        """Ctrl-C ends as gently as SIGTERM does; a second one, which `stop` looks for, hurries."""
        raise StopIteration

    def handle_hup(self) -> None:
        """Replace the web processes by ones with the programme as it is now; a bad one changes nothing at all."""
        try:
            self.app.reread_programme()
        except ProgrammeError as error:
            log.error("%s; all stays as it was", error)  # noqa: TRY400  the line is for the operator, not for us
        else:
            super().handle_hup()

    def handle_usr2(self) -> None:
        """Two masters at once cannot both own the embedded server."""
        log.warning("SIGUSR2 is not supported; SIGHUP replaces the web processes without an interruption")

    def stop(self, graceful: bool = True) -> None:
        """Drain the web processes and wait for them."""
        self._supervisor.tell("STOPPING=1")
        for listener in self.LISTENERS if self._owns_socket else ():
            ignore_connection_attempts(listener)
        super().stop(graceful)

    def halt(self, reason: str | None = None, exit_status: int = 0) -> NoReturn:
        """End the service; ServeError where it is for a reason other than a signal."""
        self.stop()
        if reason:
            raise ServeError(reason)
        sys.exit(exit_status)

    def _hear_workers(self) -> None:
        """Read what web processes reported. If the first ones cannot start, none will; later on, one may."""
        try:
            reports = os.read(self.app.reports, 1 << 16).decode(errors="replace")
        except BlockingIOError:
            return
        for line in reports.splitlines():
            if not line:
                self._begun += 1
            elif self._begun:
                log.error("%s; trying again", line)
            else:
                raise HaltServer(line, 1)
        if self._begun >= self.cfg.workers and not self._is_ready:
            self._is_ready = True
            log.info("ready")
            self._supervisor.tell("READY=1")

    def _tend(self, embedded: EmbeddedServer) -> None:
        """Start Valkey again if it ended; now and then have its append-only file rewritten if that is due."""
        now = time.monotonic()
        if embedded.alive:
            if now >= self._next_rewrite_check:
                self._next_rewrite_check = now + REWRITE_CHECK_S
                embedded.rewrite_if_due()
            return
        if not self._embedded_is_down:
            self._embedded_is_down = True
            self._embedded_patience.lost(now - self._embedded_since)
            then = "starting it again" if embedded.has_room else "starting it again when there is room"
            log.error("the embedded Valkey ended: %s; %s", embedded.why_it_died(), then)
        if self._embedded_patience.is_over and embedded.has_room:
            try:
                embedded.restart()
            except EmbeddedServerError as error:
                log.error("%s; trying again", error)  # noqa: TRY400  the line is for the operator, not for us
                self._embedded_patience.lost(0)
            else:
                self._embedded_is_down, self._embedded_since = False, now


class Patience:
    """How long to wait before a process that ended is started again.

    Not at all the first time, but longer and longer while the new ones end young too.
    """

    def __init__(self) -> None:
        self._young_ends = 0
        self._waits_until = 0.0

    def lost(self, lived_s: float) -> None:
        """A process ended after so many seconds."""
        self._young_ends = min(self._young_ends + 1, STEPS) if lived_s < YOUNG_S else 0
        if self._young_ends > 1:
            pause_s = ExponentialBackoff(SLOWEST_RESTART_S, 0.5).compute(self._young_ends - 1)
            self._waits_until = time.monotonic() + pause_s

    @property
    def is_over(self) -> bool:
        """Whether the next one may be started."""
        return time.monotonic() >= self._waits_until


class WebProcess(GunicornUVLoopWebWorker):
    """aiohttp's worker for gunicorn. On a platform without uvloop it runs on asyncio's own loop."""

    app: Web

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.started = time.monotonic()
        self._has_reported = False

    def init_process(self) -> None:
        """Choose the event loop, then boot and run."""
        if importlib.util.find_spec("uvloop"):
            super().init_process()
        else:
            GunicornWebWorker.init_process(self)

    def init_signals(self) -> None:
        """Have the event loop take the signals, and those that come before it runs wait: uvloop would lose them."""
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        super().init_signals()

    def run(self) -> None:
        """Run until told to end. One that cannot start leaves the reason to the master, in one line."""
        [listener] = self.sockets
        self.app.own_listener = socket.socket(fileno=os.dup(listener.fileno()))
        try:
            super().run()
        except Exception as error:
            if self.booted:
                raise
            place = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
            self.app.report(f"a web process cannot start: {' '.join(reason.split())}")
            sys.exit(0)

    def notify(self) -> None:
        """The sign of life; the first one comes when the process serves."""
        super().notify()
        if not self._has_reported:
            self._has_reported = True
            for listener in self.sockets:  # the event loop has set its own, much shorter queue
                listener.listen(BACKLOG)
            self.app.report("")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: begin to drain now, not at the next sign of life."""
        self.handle_quit(sig, frame)


def _allow_many_connections() -> None:
    """Raise the limit of open files as far as it goes: each connection is one, and many systems begin with 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS calls its limit infinite and refuses to set it.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _keep_shared() -> None:
    """Have the web processes share what the master holds, the programme above all.

    A forked process has its own copy of each page of memory from the first write on, and Python's garbage collector
    writes to every object that it looks at; what is frozen it does not look at. A programme that was replaced is in a
    cycle with its caches, and goes by the collection.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _announce(settings: Settings, programme: Programme, listener: socket.socket, store: Deployment) -> None:
    """Say what starts, where, and with what; never a secret."""
    host, port = listener.getsockname()[:2]
    log.info("Matinee %s on http://%s:%d", __version__, f"[{host}]" if ":" in host else host, port)
    log.info("store: %s", store.place)
    log.info("persistence: %s", store.persistence)
    if settings.wait_replicas:
        log.info("replicas: %s", replicas(settings, store))
    for warning in store.warnings:
        log.warning("warning: %s", warning)
    log.info("programme: %s", summary(programme))
    log.info("access: %s", access(settings))
    log.info("web processes: %d", settings.workers)


def replicas(settings: Settings, store: Deployment) -> str:
    """How many there are and how many are waited for, for people."""
    return f"{store.replicas} connected, {settings.wait_replicas} must have a change before it is answered"


def access(settings: Settings) -> str:
    """Who may do what, for people."""
    if settings.protected:
        return "protected mode (no staff token): this machine only, every caller is the box office"
    return "the box office needs the staff token"


def summary(programme: Programme, limit: int = 3) -> str:
    """The theatres in a few words, for people."""
    theatres = list(programme.theatres.values())
    shown = [f"{t.id} ({t.capacity} seats, {_first(t.timings, 6)}, {t.timezone.key})" for t in theatres[:limit]]
    return ", ".join(shown) + (f" and {len(theatres) - limit} more" if len(theatres) > limit else "")


def _first(words: Iterable[str], limit: int) -> str:
    words = list(words)
    return " ".join(words[:limit]) + (" …" if len(words) > limit else "")
