"""`earshot fleet secrets`, `enroll`, `revoke`: what is made, for whom, and what stays."""

import datetime as dt
import multiprocessing
import os
import re
import stat
import subprocess
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.settings import decode_settings
from node.settings import NodeSettings
from tests.rig.signers import SIGNER
from training.__main__ import main
from training.fleet.enrolment import access_rules, authority
from training.fleet.enrolment.authority import AUTHORITY_DAYS, SERVER_DAYS
from training.fleet.enrolment.broker_secrets import WARN_DAYS, Secrets, broker_certificate
from training.fleet.enrolment.enrol import Enrolment, enrol

NOW = dt.datetime.now(dt.UTC)
Run = Callable[..., int]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "secrets"


@pytest.fixture
def run(folder: Path) -> Run:
    """The command line, as far as it does not tell a broker."""

    def run(command: str, *arguments: str) -> int:
        return main([command, *arguments, "--folder", str(folder), "--no-reload"])

    return run


def contents(folder: Path) -> dict[str, bytes]:
    """All files below."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_one_command_makes_all(run: Run, folder: Path) -> None:
    """Files for each container and the operator, and .env, closed to others on this machine."""
    assert run("secrets", "--host", "broker.example") == 0

    assert contents(folder).keys() >= {
        "mosquitto/server.crt",
        "mosquitto/server.key",
        "mosquitto/passwords",
        "mosquitto/acl",
        "mosquitto/mosquitto_sub",
        "collector/ca.crt",
        "collector/mqtt-password",
        "influxdb/admin-password",
        "influxdb/admin-token",
        "influxdb/grafana-password",
        "grafana/admin-password",
        "grafana/grafana_influxdb_token",
        "operator/ca.crt",
        "operator/mqtt-password",
    }
    assert mode(folder) == 0o700
    assert mode(folder / "authority" / "ca.key") == 0o600
    assert mode(folder.parent / ".env") == 0o600
    assert "EARSHOT_SECRETS=./secrets\n" in (folder.parent / ".env").read_text()
    assert "EARSHOT_HOST=broker.example\n" in (folder.parent / ".env").read_text()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o027])
def test_containers_can_read_what_is_theirs(run: Run, folder: Path, mask: int) -> None:
    """Their users are others than ours, whatever our umask is."""
    before = os.umask(mask)
    try:
        run("secrets", "--host", "broker.example")
    finally:
        os.umask(before)

    for name in ("mosquitto", "influxdb", "grafana", "collector"):
        assert mode(folder / name) == 0o755
        assert {mode(file) for file in (folder / name).iterdir()} == {0o644}
    assert mode(folder) == 0o700


def test_no_secret_is_there_twice_or_by_default(run: Run, folder: Path, tmp_path: Path) -> None:
    """Each has its own 256 bits, and another installation has others."""
    run("secrets", "--host", "broker.example")
    main(["secrets", "--folder", str(tmp_path / "other"), "--no-reload"])
    names = [
        *("collector/mqtt-password", "operator/mqtt-password", "influxdb/admin-password"),
        *("influxdb/admin-token", "grafana/admin-password", "grafana/grafana_influxdb_token"),
    ]
    found = [
        (base / name).read_text().strip() for base in (folder, tmp_path / "other") for name in names
    ]

    assert len(set(found)) == len(found)
    assert {len(bytes.fromhex(secret)) for secret in found} == {32}
    assert (folder / "influxdb/grafana-password").read_bytes() == (
        folder / "grafana/grafana_influxdb_token"
    ).read_bytes()


def test_a_second_time_changes_nothing(run: Run, folder: Path) -> None:
    """Nor does another host, without --renew; it is told."""
    run("secrets", "--host", "broker.example")
    before = contents(folder.parent)

    assert run("secrets") == 0
    assert run("secrets", "--host", "another.example") == 0

    assert contents(folder.parent) == before


def test_another_host_is_told(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """A certificate for the wrong name would be found out by each node."""
    run("secrets", "--host", "broker.example")
    run("secrets", "--host", "another.example")

    assert "not for another.example: --renew" in capsys.readouterr().out


def test_renewal_makes_the_certificate_alone_anew(run: Run, folder: Path) -> None:
    """By the same authority, with the same names: no node needs anything."""
    run("secrets", "--host", "broker.example", "--host", "10.1.2.3")
    before = contents(folder)
    run("secrets", "--renew")
    after = contents(folder)

    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"mosquitto/server.crt", "mosquitto/server.key"}
    assert authority.hosts_of(after["mosquitto/server.crt"])[:2] == ("broker.example", "10.1.2.3")


def test_a_new_authority_takes_the_old_ones_place(run: Run, folder: Path) -> None:
    """As docs/operations.md says it: every container gets the new one, the names stay."""
    run("secrets", "--host", "broker.example")
    old = (folder / "authority" / "ca.crt").read_bytes()
    (folder / "authority").rename(folder / ".authority-of-before")
    for copy in folder.glob("[!.]*/ca.crt"):
        copy.unlink()

    assert run("secrets", "--renew") == 0

    files = contents(folder)
    new = files["authority/ca.crt"]
    assert new != old
    assert {files[f"{name}/ca.crt"] for name in ("mosquitto", "collector", "operator")} == {new}
    assert authority.hosts_of(files["mosquitto/server.crt"])[0] == "broker.example"


def test_a_user_whose_line_is_gone_gets_a_new_password(run: Run, folder: Path) -> None:
    """So a password that leaked is replaced, and nobody else's."""
    run("secrets", "--host", "broker.example")
    before = contents(folder)
    passwords = folder / "mosquitto" / "passwords"
    passwords.write_text(access_rules.without_password(passwords.read_text(), "collector"))
    run("secrets")
    after = contents(folder)

    assert {name for name in before if before[name] != after[name]} == {
        "mosquitto/passwords",
        "collector/mqtt-password",
    }


def test_env_of_other_hands_is_kept(run: Run, folder: Path) -> None:
    """What somebody has written into .env stays, before ours."""
    environment = folder.parent / ".env"
    environment.write_text("COMPOSE_PROJECT_NAME=line-2\n")
    run("secrets", "--host", "broker.example")

    assert environment.read_text().startswith("COMPOSE_PROJECT_NAME=line-2\n#")
    assert "EARSHOT_SECRETS=./secrets\n" in environment.read_text()


@pytest.mark.parametrize(
    ("age_days", "code"), [(0, 0), (SERVER_DAYS - WARN_DAYS - 2, 0), (SERVER_DAYS - 3, 1)]
)
def test_the_end_of_a_certificate_is_told_in_time(
    run: Run, folder: Path, capsys: pytest.CaptureFixture[str], age_days: int, code: int
) -> None:
    """By an exit code that cron mails, and with what to do."""
    folder.mkdir()
    Secrets(folder).make(("broker.example",), NOW - dt.timedelta(days=age_days))

    assert run("secrets") == code
    assert ("make secrets RENEW=1" in capsys.readouterr().out) == bool(code)


def test_the_end_of_the_authority_is_told_in_time(folder: Path) -> None:
    """Renewing the broker's certificate would not help."""
    old = Secrets(folder)
    made = NOW - dt.timedelta(days=AUTHORITY_DAYS - 30)
    old.make(("broker.example",), made)
    old.make(("broker.example",), NOW, renew=True)

    assert broker_certificate(old, NOW).ends_soon
    assert (
        broker_certificate(old, NOW).authority_days_left
        < WARN_DAYS
        < broker_certificate(old, NOW).days_left
    )


def test_an_upgrade_brings_new_rules_and_keeps_the_enrolled(
    run: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`secrets` writes the rules for all that came with the program."""
    run("secrets", "--host", "broker.example")
    run("enroll", "press-07", "--group", "line-2")
    rules = folder / "mosquitto" / "acl"
    text = rules.read_text()
    rules.write_text(text.replace("pattern write earshot/1/n/%u/account\n", ""))

    run("secrets")

    assert rules.read_text() == text
    assert "made mosquitto/acl" in capsys.readouterr().out


def test_a_bundle_has_all_that_a_node_needs(run: Run, folder: Path, tmp_path: Path) -> None:
    """Settings that the node's own decoder takes, for the places where docs/pi.md puts files."""
    keys = tmp_path / "release-keys.pem"
    keys.write_bytes(SIGNER.public_pem)
    run("secrets", "--host", "broker.example")
    out = tmp_path / "press-07.tar"
    done = run(
        "enroll",
        *("press-07", "--group", "line-2", "--out", str(out), "--release-keys", str(keys)),
    )
    with tarfile.open(out) as archive:
        files = {
            entry.name: file.read()
            for entry in archive
            if (file := archive.extractfile(entry)) is not None
        }
        modes = {entry.mode for entry in archive}
    settings = decode_settings(NodeSettings, files["node.toml"].decode(), {}, origin="bundle")

    assert done == 0
    assert settings.node.id == settings.mqtt.username == "press-07"
    assert settings.node.group == "line-2"
    assert settings.mqtt.address == "broker.example:8883"
    assert settings.mqtt.tls
    named = [settings.mqtt.ca_file, settings.mqtt.password_file, settings.update.keys_file]
    assert [Path(str(file)).parent for file in named] == [Path("/etc/earshot")] * 3
    assert {Path(str(file)).name for file in named} | {"node.toml"} == files.keys()
    assert files["release-keys.pem"] == SIGNER.public_pem
    assert files["ca.crt"] == (folder / "authority" / "ca.crt").read_bytes()
    assert modes == {0o600}
    assert mode(out) == 0o600
    password = files["password"].decode().strip()
    assert password not in "".join(map(str, contents(folder).values()))


def test_a_bundle_is_unpacked_as_the_manual_says(run: Run, folder: Path, tmp_path: Path) -> None:
    """Into the node's folder, for its user alone."""
    run("secrets", "--host", "broker.example")
    run("enroll", "press-07")
    page = (Path(__file__).parents[4] / "docs" / "pi.md").read_text("utf-8")
    (command,) = re.findall(r"sudo -u earshot (tar .*) < press-07.tar", page)
    place = tmp_path / "etc"
    place.mkdir()
    with (folder / "nodes" / "press-07.tar").open("rb") as bundle:
        words = command.replace("/etc/earshot", str(place)).split()
        subprocess.run(words, stdin=bundle, check=True)

    assert {(file.name, mode(file)) for file in place.iterdir()} == {
        ("node.toml", 0o600),
        ("password", 0o600),
        ("ca.crt", 0o600),
    }


def test_release_keys_beside_the_secrets_are_in_every_bundle(run: Run, folder: Path) -> None:
    """Put there once, nobody forgets them."""
    run("secrets", "--host", "broker.example")
    (folder / "release-keys.pem").write_bytes(SIGNER.public_pem)
    run("enroll", "press-07")

    with tarfile.open(folder / "nodes" / "press-07.tar") as archive:
        assert "release-keys.pem" in archive.getnames()


def test_a_node_without_keys_is_told_of(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """It takes no updates, which somebody may not have wanted."""
    run("secrets", "--host", "broker.example")
    run("enroll", "press-07")

    assert "it takes no updates" in capsys.readouterr().out


def test_revoking_takes_all_of_it_back(run: Run, folder: Path) -> None:
    """The broker's files are as they were before the node came."""
    run("secrets", "--host", "broker.example")
    run("enroll", "press-08", "--group", "line-2")
    before = contents(folder / "mosquitto")
    run("enroll", "press-07", "--group", "line-2")

    assert contents(folder / "mosquitto") != before
    assert run("revoke", "press-07") == 0
    assert contents(folder / "mosquitto") == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("enroll", "operator"), "Expected the id of a node, got operator"),
        (("enroll", "Press_07"), "Expected an id of 1 to 32 lower case letters"),
        (("enroll", "press-07", "--group", "a/b"), "Expected an id of 1 to 32"),
        (("enroll", "press-07", "--release-keys", "absent.pem"), "absent.pem: no such file"),
        (("enroll", "press-07", "--source", ""), "settings of press-07: source.spec"),
        (("revoke", "press-09"), "press-09 is not enrolled here"),
        (("secrets", "--host", "https://broker"), "--host: expected a name or an address"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    run: Run,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    """And nothing has changed, no bundle is left."""
    run("secrets", "--host", "broker.example")
    run("enroll", "press-08", "--group", "line-2")
    before = contents(folder)
    capsys.readouterr()

    assert run(*arguments) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert contents(folder) == before


def test_without_secrets_there_is_nobody_to_enrol(
    run: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What to run first is told."""
    assert run("enroll", "press-07") == 2
    assert "make secrets" in capsys.readouterr().err
    assert not folder.exists()


STUB_DOCKER = """\
#!/bin/sh
# A stub of docker: it writes down how it was called; a broker "runs" when the folder has its file.
printf '%s\\n' "$*" >>"$(dirname "$0")/calls"
test ! -e "$(dirname "$0")/failing" || { echo "permission denied" >&2; exit 1; }
case "$*" in *" ps "*) test ! -e "$(dirname "$0")/running" || echo 0123abcd ;; esac
"""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a program `docker`, first on the PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "docker").write_text(STUB_DOCKER)
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


def told(docker: Path) -> list[str]:
    """The last words of each call."""
    lines = (docker / "calls").read_text().splitlines()
    return [" ".join(line.split()[4:]) for line in lines]


def test_the_broker_of_compose_is_told(run: Run, folder: Path, docker: Path) -> None:
    """By SIGHUP, which ends no connection; not by a restart."""
    run("secrets", "--host", "broker.example")
    (docker / "running").touch()

    assert main(["enroll", "press-07", "--folder", str(folder)]) == 0
    assert told(docker)[-1] == "--signal HUP mosquitto"
    assert "compose --project-directory" in (docker / "calls").read_text()


def test_a_broker_that_does_not_run_is_not_told(
    run: Run, folder: Path, docker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It reads its files when it is started; that is no failure."""
    run("secrets", "--host", "broker.example")

    assert main(["enroll", "press-07", "--folder", str(folder)]) == 0
    assert "does not run" in capsys.readouterr().out
    assert not [call for call in told(docker) if "HUP" in call]


def test_the_first_secrets_tell_no_broker(folder: Path, docker: Path) -> None:
    """There is none yet, nor perhaps a Docker."""
    assert main(["secrets", "--host", "broker.example", "--folder", str(folder)]) == 0
    assert not (docker / "calls").exists()


def test_a_broker_that_cannot_be_told_is_a_failure(
    run: Run, folder: Path, docker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A node that is revoked and still connected must not look like one that is out."""
    run("secrets", "--host", "broker.example")
    run("enroll", "press-07")
    (docker / "failing").touch()
    capsys.readouterr()

    assert main(["revoke", "press-07", "--folder", str(folder)]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert "permission denied" in line
    assert "docker compose kill -s HUP mosquitto" in line


def test_no_such_process_is_a_failure(
    run: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The number of a broker that has ended in the meantime."""
    run("secrets", "--host", "broker.example")
    ended = subprocess.Popen(["true"])
    ended.wait()

    assert main(["enroll", "press-07", "--folder", str(folder), "--pid", str(ended.pid)]) == 1
    assert "was not told" in capsys.readouterr().err


def test_enrolling_needs_no_docker(
    run: Run,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The node is enrolled; how the broker comes to know is said, and may be left to the caller."""
    run("secrets", "--host", "broker.example")
    monkeypatch.setenv("PATH", str(tmp_path))
    capsys.readouterr()

    assert main(["enroll", "press-07", "--folder", str(folder)]) == 1

    told = capsys.readouterr()
    assert "press-07 is enrolled; its bundle: " in told.out
    assert (folder / "nodes" / "press-07.tar").is_file()
    assert "press-07" in access_rules.users((folder / "mosquitto" / "passwords").read_text())
    (line,) = told.err.splitlines()
    assert "docker is not installed here" in line
    for way_out in ("sudo pkill -HUP -x mosquitto", "--pid", "--no-reload"):
        assert way_out in line
    assert run("enroll", "press-08") == 0


def _enrol_some(folder: Path, prefix: str) -> None:
    for number in range(20):
        wanted = Enrolment(node=f"{prefix}-{number}", group=prefix, host="broker.example")
        enrol(Secrets(folder), wanted, folder / "nodes" / f"{wanted.node}.tar")


def test_two_who_enrol_at_once_lose_no_node(folder: Path) -> None:
    """Each waits for the other."""
    Secrets(folder).make(("broker.example",), NOW)
    context = multiprocessing.get_context("spawn")
    programs = [
        context.Process(target=_enrol_some, args=(folder, prefix))
        for prefix in ("line-1", "line-2")
    ]
    for program in programs:
        program.start()
    for program in programs:
        program.join(60)

    names = {f"{line}-{number}" for line in ("line-1", "line-2") for number in range(20)}
    known = access_rules.users((folder / "mosquitto" / "passwords").read_text())
    rules = access_rules.enrolled_part((folder / "mosquitto" / "acl").read_text())
    assert set(known) == names | set(access_rules.BROKER_USERS)
    assert {line.split()[1] for line in rules.splitlines() if line.startswith("user")} == names


def test_settings_are_commented_toml(run: Run, folder: Path) -> None:
    """Somebody will read and change them on the node."""
    run("secrets", "--host", "broker.example")
    run("enroll", "sim-1", "--source", "synthetic:fan", "--out", str(folder / "nodes" / "sim-1"))
    text = (folder / "nodes" / "sim-1" / "node.toml").read_text()

    assert tomllib.loads(text)["source"] == {"spec": "synthetic:fan"}
    assert mode(folder / "nodes" / "sim-1" / "password") == 0o644, "a container's user reads it"
