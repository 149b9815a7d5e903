"""What can be configured, from where, and where things lie under the data folder.

An argument wins over the TOML file, the file over the default. Every process takes the same arguments, so that the
supervisor and a systemd unit start it alike.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import secrets
import socket
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from sds.errors import InvalidValue

CORES_MAX = 64
DATA_DEFAULT = "/var/lib/sds"
TOKEN_BYTES = 32
ADDRESS_ACCEPTED = "HOST:PORT with a numeric IPv4 address, a bracketed IPv6 address or localhost, as in 127.0.0.1:8080"
LOG_LEVELS = ("debug", "info", "warning", "error")
# From the least to the most.
_WHOLE_NUMBERS = {
    "cores": (0, CORES_MAX),
    "connections_max": (16, 65_536),
    "payload_bytes_max": (16 << 20, 1 << 40),
    "map_cache_bytes_max": (16 << 20, 1 << 40),
    "heat_sample_s": (1, 86_400),
}


@dataclass(frozen=True)
class Address:
    """Where a service listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, field: str, text: str) -> Address:
        """From `127.0.0.1:8080` or `[::1]:8080`. Port 0 lets the kernel choose.

        Raises:
            InvalidValue: it is not of that form.
        """
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        try:
            if host != "localhost":
                ipaddress.ip_address(host)
            if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
                raise ValueError
        except ValueError:
            raise InvalidValue(field, f"{text!r} is not an address", ADDRESS_ACCEPTED) from None
        return cls(host, int(port))

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback

    @property
    def wildcard(self) -> bool:
        """Whether it stands for every address of this machine."""
        return self.host != "localhost" and ipaddress.ip_address(self.host).is_unspecified

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _cores_default() -> int:
    # Half of what this process may use: the default runs beside whatever else the machine does. A node that only
    # serves storage says --cores.
    return max(1, len(os.sched_getaffinity(0)) // 2)


@dataclass(frozen=True)
class Config:
    """One node's configuration.

    Attributes:
        data: the data folder.
        rest, nvme, iscsi: where each service listens.
        cores: how many cores the data path runs on.
        map_cache_bytes_max: memory for pages of the map, of each pool; 49 kB are a page, 512 extents.
        allow_remote: whether REST may listen on an address that other machines reach.
        advertise: the host name or address that connect lines name, where a target listens on every address.
        embedded_default: whether a first start makes file-backed disks, a pool and the volume `demo`.
        connections_max: what all hosts may have open, of both protocols; more are told to come later.
        payload_bytes_max: data that hosts' commands may hold in memory, in bytes; above it each connection gets one
            command's.
        heat_sample_s: how often tiering samples heat, in seconds.
        log_level: the least level that is logged.
    """

    data: Path = Path(DATA_DEFAULT)
    rest: Address = Address("127.0.0.1", 8080)
    nvme: Address = Address("127.0.0.1", 4420)
    iscsi: Address = Address("127.0.0.1", 3260)
    cores: int = 0
    map_cache_bytes_max: int = 1 << 30
    allow_remote: bool = False
    advertise: str = ""
    embedded_default: bool = True
    connections_max: int = 1024
    payload_bytes_max: int = 512 << 20
    heat_sample_s: int = 300
    log_level: str = "info"

    @property
    def token(self) -> Path:
        """The admin token's file."""
        return self.data / "admin.token"

    @property
    def socket(self) -> Path:
        """The engine's socket."""
        return self.data / "run" / "engine.sock"

    @property
    def node_db(self) -> Path:
        """The node's own RocksDB: its pools, where their disks are, hosts and events."""
        return self.data / "node"

    @property
    def disks(self) -> Path:
        """Where the embedded default's disks lie."""
        return self.data / "disks"

    def pool(self, uuid: str) -> Path:
        """Where a pool's metadata lies."""
        return self.data / "pools" / uuid

    def pid_file(self, process: str) -> Path:
        """A process's pid file."""
        return self.data / "run" / f"{process}.pid"

    def lock_file(self, process: str) -> Path:
        """What a process locks to be the only one of its kind on the data folder."""
        return self.data / "run" / f"{process}.lock"

    def log_file(self, process: str) -> Path:
        """A process's log."""
        return self.data / "log" / f"{process}.log"

    def make_folders(self) -> None:
        """Makes the data folder and those of pids and logs; nobody else may look into them (mode 0700)."""
        for folder in (self.data, self.data / "run", self.data / "log"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def advertised(self, address: Address) -> str:
        """The host part of a connect line for a target that listens on `address`."""
        if self.advertise:
            return self.advertise
        return socket.getfqdn() if address.wildcard else address.host

    def arguments(self) -> list[str]:
        """The arguments that give another process this configuration."""
        chosen = ["--data", str(self.data), "--rest", str(self.rest), "--nvme", str(self.nvme)]
        chosen += ["--iscsi", str(self.iscsi), "--cores", str(self.cores), "--log-level", self.log_level]
        chosen += [f"--{name.replace('_', '-')}={getattr(self, name)}" for name in _WHOLE_NUMBERS if name != "cores"]
        chosen += ["--allow-remote" if self.allow_remote else "--no-allow-remote"]
        chosen += ["--embedded-default" if self.embedded_default else "--no-embedded-default"]
        if self.advertise:
            chosen += ["--advertise", self.advertise]
        return chosen


def load(file: Path | None, given: dict[str, object]) -> Config:
    """The configuration; `given` holds what arguments said, None where they said nothing.

    Raises:
        InvalidValue: the file is no TOML, has an unknown key, or a value is refused.
    """
    values = _read(file) if file else {}
    values |= {name: value for name, value in given.items() if value is not None}
    checked = {name: _check(name, value) for name, value in values.items()}
    config = Config(**checked)  # type: ignore[arg-type]
    if config.cores == 0:
        config = replace(config, cores=_cores_default())
    if not config.rest.loopback and not config.allow_remote:
        raise InvalidValue(
            "rest",
            f"REST would listen on {config.rest}, which other machines may reach, and its token would cross the "
            "network in the clear",
            "a loopback address, or allow_remote = true in the configuration file",
        )
    return config


def from_arguments(program: str, argv: Sequence[str] | None = None) -> Config:
    """The configuration of a process started as `python -m sds.NAME`.

    Raises:
        InvalidValue: as `load`.
        SystemExit: argparse did not understand the arguments.
    """
    parser = argparse.ArgumentParser(prog=program)
    parser.add_argument("--config", type=Path, help="TOML file")
    for name in ("data", "rest", "nvme", "iscsi", "advertise", "log-level"):
        parser.add_argument(f"--{name}")
    for name in _WHOLE_NUMBERS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int)
    for name in ("allow-remote", "embedded-default"):
        parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction)
    given = vars(parser.parse_args(argv))
    return load(given.pop("config"), given)


def ensure_token(path: Path) -> str:
    """The admin token; made at the first call, in a file that only its owner may read (mode 0600).

    Raises:
        InvalidValue: the file is there, and empty or open to others.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        mode = path.stat().st_mode & 0o077
        token = path.read_text().strip()
        if mode or not token:
            what = f"can be read by others (mode {mode:#05o})" if mode else "is empty"
            raise InvalidValue("token", f"{path} {what}", "a file with a token and mode 0600") from None
        return token
    token = secrets.token_urlsafe(TOKEN_BYTES)
    with os.fdopen(handle, "w") as file:
        file.write(token + "\n")
    return token


def _read(file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise InvalidValue("config", f"{file}: {error.strerror}", "a readable TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidValue("config", f"{file} is no TOML: {error}", "a TOML file") from error


def _check(name: str, value: object) -> object:
    known = {field.name for field in fields(Config)}
    if name not in known:
        raise InvalidValue(name, f"there is no setting {name}", ", ".join(sorted(known)))
    if name in {"rest", "nvme", "iscsi"}:
        return value if isinstance(value, Address) else Address.parse(name, str(value))
    if name == "data":
        return Path(str(value)).absolute()
    if name in {"allow_remote", "embedded_default"}:
        if not isinstance(value, bool):
            raise InvalidValue(name, f"{name} is {value!r}", "true or false")
        return value
    if name in _WHOLE_NUMBERS:
        return _check_int(name, value, *_WHOLE_NUMBERS[name])
    if name == "log_level" and value not in LOG_LEVELS:
        raise InvalidValue(name, f"log_level is {value!r}", ", ".join(LOG_LEVELS))
    return str(value)


def _check_int(name: str, value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidValue(name, f"{name} is {value!r}", f"an integer from {least} to {most}")
    return value
