"""The secrets of a fleet's servers: `earshot fleet secrets` makes what compose mounts.

A container sees a mounted file with the owner that it has on the host, and each image runs as a
user of its own. So the files are readable for all, in folders that are mounted one by one, and the
folder around them, which no container sees, is closed to everybody else on the host.

    secrets/            0700
      authority/        the certificate authority; its key is mounted nowhere
      mosquitto/        certificate, passwords (hashed), access rules, the health check's login
      collector/ grafana/ influxdb/    each to its container
      operator/         for `fleet push`, `collector watch` and `command`
      nodes/            bundles of enrolled nodes, until they are carried to them
"""

import datetime as dt
import fcntl
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from node.whole_file import write_whole
from training.errors import EnrolmentError
from training.fleet.enrolment import access_rules, authority
from training.fleet.enrolment.authority import Pair

RULES = Path(__file__).parents[3] / "collector" / "broker" / "acl"
"""The access rules that hold for every fleet."""
SERVICE_HOSTS = ("mosquitto", "localhost")
"""How the broker is called by the collector, and by its own health check."""
WARN_DAYS = 60
"""Before a certificate ends; whoever looks once a month is told in time."""

_FOLDERS = ("authority", "collector", "grafana", "influxdb", "mosquitto", "nodes", "operator")
_CLOSED, _SEEN_BY_CONTAINERS = 0o700, 0o755
_PRIVATE, _READABLE = 0o600, 0o644
_LOCK = ".lock"
_PASSWORD_BYTES = 32
# What mosquitto_sub reads from $XDG_CONFIG_HOME; its command line would show the password.
_HEALTH_LOGIN = "--cafile /etc/earshot/secrets/ca.crt\n-u {user}\n-P {password}\n"
_ENVIRONMENT = """\
# What docker-compose.yml wants to know. Written by `make secrets`; no secret is in here.
EARSHOT_SECRETS={folder}
# How browsers reach Grafana, for the links in its notifications.
EARSHOT_HOST={host}
"""


class Secrets:
    """The folder, and what is in it.

    Args:
        folder: made by `make`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate_file = folder / "mosquitto" / "server.crt"
        self.passwords_file = folder / "mosquitto" / "passwords"
        self.access_file = folder / "mosquitto" / "acl"
        self.authority_file = folder / "authority" / "ca.crt"
        self.release_keys_file = folder / "release-keys.pem"
        """Public keys that every node is to trust; whoever releases puts them there."""

    def make(
        self, hosts: tuple[str, ...], now: dt.datetime, *, renew: bool = False
    ) -> tuple[str, ...]:
        """Make all that is missing; what is there stays, but for the access rules for all.

        Args:
            hosts: how nodes reach the broker.
            now: the time.
            renew: make the broker's certificate anew.

        Returns:
            Names of what was made or changed, relative to the folder.

        Raises:
            EnrolmentError: something cannot be read or written.
        """
        try:
            self._make_folders()
            made = [*self._certificates(hosts, now, renew=renew), *self._logins()]
            made += self._passwords("influxdb", "admin-password", "admin-token")
            made += self._passwords("grafana", "admin-password", "grafana_influxdb_token")
            # InfluxDB makes Grafana's user and has to know its password as well.
            given = self._read("grafana", "grafana_influxdb_token")
            made += self._kept("influxdb", "grafana-password", given)
            made += self._access()
        except OSError as error:
            raise EnrolmentError(f"{error.filename}: {error.strerror}") from error
        return tuple(made)

    def hosts(self) -> tuple[str, ...]:
        """What the broker's certificate was made for; nothing when there is none.

        Raises:
            EnrolmentError: it cannot be read.
        """
        try:
            named = authority.hosts_of(self.certificate_file.read_bytes())
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise EnrolmentError(f"{error.filename}: {error.strerror}") from error
        return tuple(host for host in named if host not in SERVICE_HOSTS) or named[:1]

    @contextmanager
    def changing_logins(self) -> Iterator["Logins"]:
        """What the broker knows of its users, to be changed; written when the block ends well.

        Only one process at a time: of two that read before either writes, one node would be lost.

        Raises:
            EnrolmentError: the files cannot be read or written.
        """
        try:
            with (self.folder / _LOCK).open("wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                access = self.access_file.read_text("utf-8")
                logins = Logins(
                    passwords=self.passwords_file.read_text("utf-8"),
                    enrolled=access_rules.enrolled_part(access),
                )
                yield logins
                rules = access.partition(access_rules.ENROLLED)[0]
                text = access_rules.access_file(rules, logins.enrolled)
                self._replaced("mosquitto", "acl", text.encode())
                self._replaced("mosquitto", "passwords", logins.passwords.encode())
        except OSError as error:
            raise EnrolmentError(
                f"{error.filename}: {error.strerror}; `make secrets` makes what a broker needs"
            ) from error

    def _make_folders(self) -> None:
        for folder in (self.folder, *(self.folder / name for name in _FOLDERS)):
            folder.mkdir(exist_ok=True)
            closed = folder == self.folder or folder.name in ("authority", "operator", "nodes")
            folder.chmod(_CLOSED if closed else _SEEN_BY_CONTAINERS)

    def _certificates(
        self, hosts: tuple[str, ...], now: dt.datetime, *, renew: bool
    ) -> tuple[str, ...]:
        made: tuple[str, ...] = ()
        if not self.authority_file.exists():
            new = authority.new_authority(now)
            made += self._kept("authority", "ca.key", new.key, mode=_PRIVATE)
            made += self._kept("authority", "ca.crt", new.certificate)
        ours = Pair(self._read("authority", "ca.crt"), self._read("authority", "ca.key"))
        for name in ("mosquitto", "collector", "operator"):
            made += self._kept(name, "ca.crt", ours.certificate)
        if renew or not self.certificate_file.exists():
            names = tuple(dict.fromkeys((*hosts, *SERVICE_HOSTS)))
            new = authority.new_server_certificate(ours, names, now)
            # The key first: a certificate that is there has its key.
            made += self._replaced("mosquitto", "server.key", new.key)
            made += self._replaced("mosquitto", "server.crt", new.certificate)
        return made

    def _logins(self) -> tuple[str, ...]:
        made: tuple[str, ...] = ()
        passwords = self.passwords_file.read_text("utf-8") if self.passwords_file.exists() else ""
        known = access_rules.users(passwords)
        for user in access_rules.BROKER_USERS:
            if user in known:
                continue
            password = new_password()
            if user == access_rules.HEALTH:
                login = _HEALTH_LOGIN.format(user=user, password=password)
                made += self._replaced("mosquitto", "mosquitto_sub", login.encode())
            else:
                made += self._replaced(user, "mqtt-password", f"{password}\n".encode())
            passwords = access_rules.with_password(passwords, new_line(user, password))
        # Last: a user that is in it has its password written down.
        return made + self._replaced("mosquitto", "passwords", passwords.encode())

    def _access(self) -> tuple[str, ...]:
        there = self.access_file.exists()
        enrolled = ""
        if there and access_rules.ENROLLED in (text := self.access_file.read_text("utf-8")):
            enrolled = access_rules.enrolled_part(text)
        access = access_rules.access_file(RULES.read_text("utf-8"), enrolled)
        return self._replaced("mosquitto", "acl", access.encode())

    def _passwords(self, folder: str, *names: str) -> tuple[str, ...]:
        made: tuple[str, ...] = ()
        for name in names:
            made += self._kept(folder, name, f"{new_password()}\n".encode())
        return made

    def _kept(
        self, folder: str, name: str, content: bytes, *, mode: int = _READABLE
    ) -> tuple[str, ...]:
        """Write what is not there yet."""
        there = (self.folder / folder / name).exists()
        return () if there else self._replaced(folder, name, content, mode=mode)

    def _replaced(
        self, folder: str, name: str, content: bytes, *, mode: int = _READABLE
    ) -> tuple[str, ...]:
        """Write what is not there as it should be."""
        path = self.folder / folder / name
        if path.exists() and path.read_bytes() == content:
            return ()
        _write(path, content, mode)
        return (f"{folder}/{name}",)

    def _read(self, folder: str, name: str) -> bytes:
        return (self.folder / folder / name).read_bytes()


class Logins(msgspec.Struct):
    """The password file, and the part of the access file that is about single nodes."""

    passwords: str
    enrolled: str


class BrokerCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """The broker's certificate: for whom, and until when."""

    hosts: tuple[str, ...]
    days_left: int
    authority_days_left: int

    @property
    def ends_soon(self) -> bool:
        """Whether somebody has to renew one of the two."""
        return min(self.days_left, self.authority_days_left) < WARN_DAYS


def broker_certificate(found: Secrets, now: dt.datetime) -> BrokerCertificate:
    """For whom the broker's certificate is, and how long it and its authority are good.

    Raises:
        EnrolmentError: there are none.
    """
    try:
        certificate = found.certificate_file.read_bytes()
        ours = found.authority_file.read_bytes()
    except OSError as error:
        raise EnrolmentError(
            f"{error.filename}: {error.strerror}; `make secrets` makes what a broker needs"
        ) from error
    return BrokerCertificate(
        hosts=found.hosts(),
        days_left=(authority.ends(certificate) - now).days,
        authority_days_left=(authority.ends(ours) - now).days,
    )


def write_environment(path: Path, found: Secrets, host: str) -> bool:
    """Write what docker compose reads, unless it is there; lines of other hands stay.

    Returns:
        Whether something was written.

    Raises:
        EnrolmentError: it cannot be written.
    """
    try:
        before = path.read_text("utf-8") if path.exists() else ""
        if "EARSHOT_SECRETS=" in before:
            return False
        text = _ENVIRONMENT.format(folder=_as_compose_wants(found.folder, path.parent), host=host)
        _write(path, (before + text).encode(), _PRIVATE)
    except OSError as error:
        raise EnrolmentError(f"{error.filename}: {error.strerror}") from error
    return True


def new_password() -> str:
    """256 random bits in hexadecimal digits: safe in any file and on any command line."""
    return secrets.token_hex(_PASSWORD_BYTES)


def new_line(user: str, password: str) -> str:
    """A user's line of the password file, with a salt of its own."""
    salt = secrets.token_bytes(access_rules.SALT_BYTES)
    return access_rules.password_line(user, password, salt)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Files that a container reads, into a folder that is made for them."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(_SEEN_BY_CONTAINERS)
    for name, content in files.items():
        _write(folder / name, content, _READABLE)


def _as_compose_wants(folder: Path, beside: Path) -> str:
    """A path that begins with `./` or `/`: without, compose takes it for the name of a volume."""
    absolute = folder.absolute()
    if absolute.is_relative_to(beside.absolute()):
        return f"./{absolute.relative_to(beside.absolute())}"
    return str(absolute)


def _write(path: Path, content: bytes, mode: int) -> None:
    write_whole(path, content, mode=mode)
    # Whatever the umask of whoever called took away.
    if path.stat().st_mode & 0o777 != mode:
        path.chmod(mode)
