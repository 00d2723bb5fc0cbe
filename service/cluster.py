"""A Redis or Valkey Cluster: a pipeline to each primary, and every command to the one that serves its theatre.

All keys of a theatre share a hash tag, so a command has one slot, and with it one node. redis-py's cluster client
learns the map of slots from the nodes; this module keeps the commands moving while the map changes:

- MOVED: the command goes on to the node that is named; the map is corrected, and learned anew.
- ASK: the same for this one command, behind ASKING; the map stays.
- TRYAGAIN, a slot that nobody serves, nodes that disagree: the command waits a moment and tries again.
- CLUSTERDOWN: the node gets no new commands until its view of the cluster is whole; those it had wait for that.
- A lost node: its commands wait for it, and go to the replica that takes its place.

All this within the command's own deadline. Past it the answer is `Unavailable` or `OutcomeUnknown`, as in `pipeline`.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any

import redis.exceptions
from redis.asyncio import ConnectionPool, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.backoff import EqualJitterBackoff
from redis.cluster import get_node_name
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from service.errors import Unavailable
from service.histogram import Histogram
from service.pipeline import BATCH_BOUNDS, REFUSALS, ROUND_TRIP_BOUNDS_S, SHUTTING_DOWN, STEPS, Command, Pipeline
from service.scripts import Script

log = logging.getLogger(__name__)

PARK_S = 0.1  # how long a command waits before it tries again
PARKED_MAX = 4096
CIRCLE = 5  # redirections of one command after which it waits: the nodes do not agree yet
LEARN_S = 0.1  # at the least between two looks at the map of slots
LEARN_WITHIN_S = 2.0
LEARN_AGAIN_S = 30.0  # the map is looked at so often even where nothing complains
FORGET_S = 10.0  # a node without slots is left after so long: it may be about to get some

DOWN = REFUSALS["CLUSTERDOWN"]
UNSERVED = "no node of the Redis cluster serves this theatre"
DISAGREE = "the nodes of the Redis cluster do not agree who serves this theatre"

_SUMS = ("batches", "commands", "connects", "reconnects", "shed", "unconfirmed")


class Cluster:
    """All commands of this process to the primaries of one cluster; used as a `Pipeline` is.

    `client` finds the nodes. `options` are those of every node's pipeline. Counters are sums over the nodes.
    """

    def __init__(self, client: RedisCluster, **options: Any) -> None:
        self._manager = client.nodes_manager
        self._seeds = dict(self._manager.startup_nodes)
        self._options = options
        self._pipelines: dict[str, Pipeline] = {}
        self._by_slot: list[Pipeline | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._owners: list[Pipeline] = []  # in the order of their names
        self._unowned_since: dict[str, float] = {}
        self._leaving: dict[Pipeline, asyncio.Task[None]] = {}
        self._down: set[Pipeline] = set()
        self._parked: deque[tuple[Command, str]] = deque()
        self._parking: asyncio.TimerHandle | None = None
        self._stale = asyncio.Event()
        self._learning: asyncio.Task[None] | None = None
        self._trouble = ""
        self._closed = True
        self._left = Counter[str]()
        self.batch_sizes = Histogram(BATCH_BOUNDS)
        self.round_trips_s = Histogram(ROUND_TRIP_BOUNDS_S)

    async def open(self) -> None:
        """Learn the map and try to connect to every primary; what fails is tried again and again."""
        self._loop = asyncio.get_running_loop()
        self._closed = False
        await self._learn()
        await asyncio.gather(*(pipeline.tried() for pipeline in self._owners))
        self._stale.set()
        self._learning = self._loop.create_task(self._keep_learning())

    async def close(self) -> None:
        """Refuse new commands, let those under way be answered (within the deadline), then disconnect."""
        self._closed = True
        if self._learning:
            self._stale.set()
            await asyncio.wait({self._learning})
        if futures := [command.future for command, _ in self._parked if not command.future.done()]:
            await asyncio.wait(futures)
        await asyncio.gather(*(pipeline.close() for pipeline in self._pipelines.values()), *self._leaving.values())
        if self._parking:
            self._parking.cancel()
        for command, _ in self._parked:
            command.fail(SHUTTING_DOWN)
        for nodes in ("nodes_cache", "startup_nodes"):
            await self._manager.aclose(nodes)

    def run(
        self, script: Script, keys: Sequence[str], args: Sequence[str | int | bytes] | bytes, *, mutates: bool
    ) -> asyncio.Future[Any]:
        """Run `script` on the node that serves the slot of `keys`; see `Pipeline.run`."""
        pipeline = self._by_slot[_slot(keys)]
        if pipeline is not None and not self._closed:
            return pipeline.run(script, keys, args, mutates=mutates)
        self._left["shed"] += 1
        future: asyncio.Future[Any] = self._loop.create_future()
        future.set_exception(Unavailable(f"{SHUTTING_DOWN if self._closed else UNSERVED}; nothing was done"))
        return future

    @property
    def ready(self) -> bool:
        """Whether any node that serves theatres answers and takes commands: docs/decisions/0051."""
        return any(pipeline.ready and pipeline not in self._down for pipeline in self._owners)

    def now_ms(self) -> int:
        """The clock of a primary, milliseconds since 1970: the first by name that is connected."""
        for pipeline in self._owners:
            if pipeline.connected:
                return pipeline.now_ms()
        return self._owners[0].now_ms() if self._owners else int(time.time() * 1000)

    @property
    def batches(self) -> int:
        """Writes to all nodes."""
        return self._sum("batches")

    @property
    def commands(self) -> int:
        """Commands written to all nodes."""
        return self._sum("commands")

    @property
    def connects(self) -> int:
        """Connections made to all nodes."""
        return self._sum("connects")

    @property
    def reconnects(self) -> int:
        """How often a lost connection to a node was made anew."""
        return self._sum("reconnects")

    @property
    def shed(self) -> int:
        """Commands refused at once."""
        return self._sum("shed")

    @property
    def unconfirmed(self) -> int:
        """Batches that too few replicas confirmed in time."""
        return self._sum("unconfirmed")

    @property
    def in_flight(self) -> int:
        """Commands written whose replies have not come."""
        return sum(pipeline.in_flight for pipeline in self._every())

    @property
    def waiting(self) -> int:
        """Commands not written yet, or to be written again."""
        return len(self._parked) + sum(pipeline.waiting for pipeline in self._every())

    def _sum(self, counter: str) -> int:
        counts: list[int] = [getattr(pipeline, counter) for pipeline in self._every()]
        return self._left[counter] + sum(counts)

    def _every(self) -> Iterable[Pipeline]:
        return [*self._pipelines.values(), *self._leaving]

    # Commands on their way from node to node.

    def _redirect(self, pipeline: Pipeline, command: Command, error: redis.exceptions.RedisError) -> bool:
        """Take charge of a command that a node refused, if the refusal is of the cluster."""
        code = error.status_code
        if isinstance(error, redis.exceptions.AskError):  # MovedError is one too
            command.redirects += 1
            node = self._pipeline_at(error.host, error.port)
            command.asking = code == "ASK"
            if code == "MOVED":
                self._by_slot[error.slot_id] = node
                self._stale.set()
            if command.redirects % CIRCLE:
                node.take(command)
            else:
                self._park(command, DISAGREE)
        elif code == "CLUSTERDOWN" and "slot" not in str(error):
            self._shut(pipeline)
            self._park(command, DOWN)
        elif code in {"CLUSTERDOWN", "TRYAGAIN"}:
            self._stale.set()
            self._park(command, REFUSALS[code] if code == "TRYAGAIN" else UNSERVED)
        else:
            return False
        return True

    def _send(self, command: Command) -> None:
        pipeline = self._by_slot[_slot(command.keys)]
        if pipeline is None:
            self._park(command, UNSERVED)
        elif pipeline in self._down:
            self._park(command, DOWN)
        else:
            pipeline.take(command)

    def _park(self, command: Command, why: str) -> None:
        """Let a command wait a moment. Where too many do, it is refused."""
        command.asking = False
        if len(self._parked) >= PARKED_MAX:
            command.fail(why)
            return
        self._parked.append((command, why))
        if self._parking is None:
            self._parking = self._loop.call_later(PARK_S, self._unpark)

    def _unpark(self) -> None:
        self._parking = None
        parked, self._parked = self._parked, deque()
        now = self._loop.time()
        for command, why in parked:
            if command.deadline <= now:
                command.fail(why)
            elif not command.future.done():
                self._send(command)

    # The map of slots.

    async def _keep_learning(self) -> None:
        """Learn the map again when something shows that it is wrong, and until all its nodes are there."""
        backoff = EqualJitterBackoff(cap=0.5, base=LEARN_S)
        failures = 0
        while not self._closed:  # to cancel would not do: redis-py may swallow it
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEARN_AGAIN_S):
                    await self._stale.wait()
            self._stale.clear()
            if await self._learn():
                failures = 0
            else:
                failures = min(failures + 1, STEPS)
                self._stale.set()
            await asyncio.sleep(backoff.compute(failures) if failures else LEARN_S)

    async def _learn(self) -> bool:
        """Ask the nodes who serves what, and act on it; whether all is well."""
        try:
            async with asyncio.timeout(LEARN_WITHIN_S):
                await self._manager.initialize()
                self._take_map()
                await self._look_at_state()
        except Exception as error:
            # Whatever it raises, to ask again is all there is to do; all known nodes may have been replaced.
            self._manager.startup_nodes.update(self._seeds)
            self._tell(f"does not tell who serves what: {error or type(error).__name__}")
            return False
        unserved = self._by_slot.count(None)
        if self._down:
            self._tell("is down")
        elif unserved:
            self._tell(f"serves only {REDIS_CLUSTER_HASH_SLOTS - unserved} of {REDIS_CLUSTER_HASH_SLOTS} slots")
        else:
            self._tell("")
        return not self._trouble and all(pipeline.connected for pipeline in self._owners)

    def _take_map(self) -> None:
        slots = self._manager.slots_cache
        primaries = {nodes[0].name: nodes[0] for nodes in slots.values()}
        owners = {
            name: self._pipeline_at(primaries[name].host, int(primaries[name].port)) for name in sorted(primaries)
        }
        self._by_slot = [
            owners[slots[slot][0].name] if slot in slots else None for slot in range(REDIS_CLUSTER_HASH_SLOTS)
        ]
        self._owners = list(owners.values())
        for pipeline in self._down.difference(self._owners):
            self._reopen(pipeline)
        now = self._loop.time()
        for name, pipeline in list(self._pipelines.items()):
            if name in owners:
                self._unowned_since.pop(name, None)
            elif now - self._unowned_since.setdefault(name, now) > FORGET_S:
                self._leave(name)
            if not pipeline.connected:
                for command in pipeline.give_back():
                    self._send(command)

    def _pipeline_at(self, host: str, port: int) -> Pipeline:
        """The pipeline to a node, made where there is none."""
        name = get_node_name(host, port)
        pipeline = self._pipelines.get(name)
        if pipeline is None:
            node = ClusterNode(host, port, **self._manager.connection_kwargs)
            pool = ConnectionPool(node.connection_class, **node.connection_kwargs)
            pipeline = Pipeline(pool, name=name, redirect=self._redirect, lost=self._stale.set, **self._options)
            pipeline.batch_sizes = self.batch_sizes
            pipeline.round_trips_s = self.round_trips_s
            pipeline.start()
            self._pipelines[name] = pipeline
        return pipeline

    def _leave(self, name: str) -> None:
        pipeline = self._pipelines.pop(name)
        del self._unowned_since[name]
        self._down.discard(pipeline)

        async def see_off() -> None:
            await pipeline.close()
            for counter in _SUMS:
                self._left[counter] += getattr(pipeline, counter)
            del self._leaving[pipeline]

        self._leaving[pipeline] = self._loop.create_task(see_off())

    async def _look_at_state(self) -> None:
        """Ask the nodes whether they see the cluster as down, as soon as anything is wrong with one of them."""
        if self._down or not all(pipeline.connected for pipeline in self._owners):
            await asyncio.gather(*(self._ask_state(pipeline) for pipeline in self._owners if pipeline.connected))

    async def _ask_state(self, pipeline: Pipeline) -> None:
        try:
            info = await self._manager.nodes_cache[pipeline.name].execute_command("CLUSTER INFO")
        except (redis.exceptions.RedisError, OSError):
            return
        if info["cluster_state"] == "ok":
            self._reopen(pipeline)
        else:
            self._shut(pipeline)

    def _shut(self, pipeline: Pipeline) -> None:
        self._down.add(pipeline)
        pipeline.shut(DOWN)
        self._stale.set()

    def _reopen(self, pipeline: Pipeline) -> None:
        self._down.discard(pipeline)
        pipeline.reopen(DOWN)

    def _tell(self, trouble: str) -> None:
        """Log what is wrong with the cluster as a whole, once; and that it is well again."""
        if trouble != self._trouble:
            log.warning("the Redis cluster %s", trouble or "is whole again")
            self._trouble = trouble


def _slot(keys: Sequence[str]) -> int:
    return key_slot(keys[0].encode())
