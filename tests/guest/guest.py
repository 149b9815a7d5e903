"""Boots the test guest and runs scripts in it.

The guest is Debian's own cloud kernel under QEMU's emulator (TCG, so no rights
and no KVM are needed) with an initramfs of real initiators, see `mkguest.sh`; or
Debian's user-mode Linux, a process of this machine: cheaper, but of one CPU and with
no NVMe/TCP. Booting takes about six seconds or two; one boot serves a whole test
session, and jobs run side by side in it while the test does something to the server
outside.

The image is kept outside the clone: `$SDS_GUEST`, else `~/.cache/sds-guest`.
The guest reaches the host's loopback at 10.0.2.2.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import itertools
import os
import queue
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

HERE = Path(__file__).parent
BOOT_LIMIT_S = 90
STOP_LIMIT_S = 5
# The guest ends a job at its limit; past this grace the guest itself counts as hung.
HUNG_GRACE_S = 8
CONSOLE_TAIL_LINES = 40


class Kind(Enum):
    """What the guest is."""

    EMULATED = "emulated"
    USER_MODE = "user-mode"


class GuestError(AssertionError):
    """What went wrong in the guest, with the output that led to it."""


class JobFailedError(GuestError):
    """A job ended with another status than 0."""


class TimeLimitError(GuestError):
    """A job was still running at its limit."""


class GuestDiedError(GuestError):
    """The guest ended or hung: a panic, no memory, a stuck agent. The console's end is in the message."""


def kernel(kind: Kind) -> tuple[Path, Path]:
    """The newest installed kernel of that kind: its image, and the folder of its modules, named as its release.

    Raises:
        GuestError: none is installed.
    """
    if kind is Kind.USER_MODE:
        found = [(Path("/usr/bin/linux.uml"), modules) for modules in Path("/usr/lib/uml/modules").glob("*")]
    else:
        images = Path("/boot").glob("vmlinuz-*-cloud-amd64")
        found = [(image, Path("/lib/modules", image.name.removeprefix("vmlinuz-"))) for image in images]
    if not found:
        raise GuestError(f"no kernel of an {kind.value} guest: run deploy/setup/apt.sh test")
    return max(found, key=lambda pair: [int(part) for part in re.findall(r"\d+", pair[1].name)])


def image(kind: Kind) -> Path:
    """The folder that holds `kernel` and `initrd`, built first if a script, the kernel or a tool has changed."""
    source, modules = kernel(kind)
    digest = hashlib.sha256()
    for name in ("mkguest.sh", "guest-init", "guestlib.sh"):
        digest.update((HERE / name).read_bytes())
    for tool in ("nvme", "iscsid", "fio", "busybox"):
        path = shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin")
        digest.update(f"{tool} {Path(path).stat().st_mtime_ns if path else 'missing'}".encode())
    cache = Path(os.environ.get("SDS_GUEST") or Path.home() / ".cache" / "sds-guest")
    cache.mkdir(parents=True, exist_ok=True)
    ready = cache / f"{modules.name}-{digest.hexdigest()[:12]}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            with tempfile.TemporaryDirectory(dir=cache) as work:
                subprocess.run(["bash", str(HERE / "mkguest.sh"), source, modules, f"{work}/image"], check=True)
                Path(work, "image").rename(ready)
    return ready


@dataclass
class Job:
    """A script that runs in the guest."""

    guest: Guest
    number: int
    limit_s: float
    deadline: float
    lines: list[str] = field(default_factory=list)
    status: int | None = None
    _news: queue.Queue[str | int] = field(default_factory=queue.Queue)

    def wait(self, *, check: bool = True) -> list[str]:
        """Waits until the job ends and returns its output.

        Args:
            check: with False a status other than 0 is left for the caller to read from `status`.

        Raises:
            JobFailedError, TimeLimitError, GuestDiedError.
        """
        while self.status is None:
            self._next(self.deadline)
        if self.status in {124, 137} and time.monotonic() > self.deadline - HUNG_GRACE_S - 1:
            raise TimeLimitError(f"the job was still running after {self.limit_s} s\n" + "\n".join(self.lines))
        if check and self.status != 0:
            raise JobFailedError(f"the job ended with status {self.status}\n" + "\n".join(self.lines))
        return self.lines

    def wait_line(self, pattern: str, limit_s: float) -> str:
        """Waits until the job has printed a line in which `pattern` (a regular expression) is found."""
        deadline = min(time.monotonic() + limit_s, self.deadline)
        looked_at = 0
        while True:
            for line in self.lines[looked_at:]:
                if re.search(pattern, line):
                    return line
            looked_at = len(self.lines)
            if self.status is not None:
                raise JobFailedError(f"ended ({self.status}) without a line like {pattern!r}\n" + "\n".join(self.lines))
            try:
                self._next(deadline, hung=False)
            except TimeoutError:
                text = "\n".join(self.lines)
                raise TimeLimitError(f"no line like {pattern!r} within {limit_s} s\n{text}") from None

    def end(self) -> None:
        """Asks the job's processes to end (SIGTERM)."""
        self.guest.send(f"END {self.number}")

    def value(self, key: str) -> str:
        """The value of the last line `key=value`."""
        for line in reversed(self.lines):
            if line.startswith(f"{key}="):
                return line.removeprefix(f"{key}=")
        raise GuestError(f"the job printed no {key}=\n" + "\n".join(self.lines))

    def _next(self, deadline: float, *, hung: bool = True) -> None:
        try:
            news = self._news.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            if not hung:
                raise TimeoutError from None
            self.guest.kill()
            said = "\n".join(self.lines)
            raise GuestDiedError(f"no answer from the guest\n{said}\n{self.guest.console_tail()}") from None
        if isinstance(news, int):
            self.status = news
            if not self.guest.alive:
                raise GuestDiedError("the guest ended\n" + "\n".join(self.lines) + "\n" + self.guest.console_tail())
        else:
            self.lines.append(news)
            print(f"guest[{self.number}] {news}")

    def put(self, news: str | int) -> None:
        """For the guest's reader thread: a line of output, or the status."""
        self._news.put(news)


class Guest:
    """One booted guest.

    Args:
        memory_mib: its memory; the initramfs takes about 150 MiB of it.
        cpus: emulated CPUs, each a host thread; user-mode Linux has one.

    Raises:
        GuestDiedError: it was not up within BOOT_LIMIT_S.
    """

    def __init__(self, kind: Kind = Kind.EMULATED, *, memory_mib: int = 1024, cpus: int = 2) -> None:
        self._work = Path(tempfile.mkdtemp(prefix="sds-guest."))
        self._console = self._work / "console.log"
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        self._ready = threading.Event()
        self.alive = True
        self.kernel = ""
        started = time.monotonic()
        self._errors = (self._work / "errors.log").open("wb")
        folder = image(kind)
        self._process = subprocess.Popen(
            _user_mode_command(folder, self._work, memory_mib)
            if kind is Kind.USER_MODE
            else _qemu_command(folder, self._console, memory_mib, cpus),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._reader = threading.Thread(target=self._read, name="guest-reader", daemon=True)
        self._reader.start()
        if not self._ready.wait(BOOT_LIMIT_S) or not self.alive:
            self.kill()
            raise GuestDiedError(f"no guest within {BOOT_LIMIT_S} s\n{self.console_tail()}")
        self.boot_s = time.monotonic() - started
        print(f"guest: {self.kernel} up after {self.boot_s:.1f} s")

    def run(
        self, script: str, *, env: Mapping[str, object] | None = None, limit_s: float = 60, check: bool = True
    ) -> Job:
        """Runs a bash script and waits for its end; guestlib.sh's functions are there, and any error ends it."""
        job = self.start(script, env=env, limit_s=limit_s)
        job.wait(check=check)
        return job

    def start(self, script: str, *, env: Mapping[str, object] | None = None, limit_s: float = 60) -> Job:
        """Starts a bash script in the background of the guest."""
        if not self.alive:
            raise GuestDiedError(self.console_tail())
        number = next(self._numbers)
        job = Job(self, number, limit_s, time.monotonic() + limit_s + HUNG_GRACE_S)
        self._jobs[number] = job
        head = "".join(f"export {name}={shlex.quote(str(value))}\n" for name, value in (env or {}).items())
        text = base64.b64encode((head + script).encode()).decode()
        self.send(f"RUN {number} {limit_s} {text}")
        return job

    def send(self, line: str) -> None:
        """For jobs: one line to the agent."""
        assert self._process.stdin
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise GuestDiedError(self.console_tail()) from None

    def console_tail(self) -> str:
        """The last lines of the kernel's console and of its process's own messages."""
        logs = [path for path in (self._console, self._work / "errors.log") if path.exists()]
        return "\n".join(
            line
            for path in logs
            for line in (f"-- {path.name}:", *path.read_text(errors="replace").splitlines()[-CONSOLE_TAIL_LINES:])
        )

    def stop(self) -> None:
        """Powers the guest off and removes its files."""
        if self.alive:
            with contextlib.suppress(GuestError):
                self.send("OFF")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_LIMIT_S)
        self.kill()
        shutil.rmtree(self._work, ignore_errors=True)

    def kill(self) -> None:
        """Ends its process at once."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _read(self) -> None:
        assert self._process.stdout
        for raw in self._process.stdout:
            verb, _, rest = raw.decode(errors="replace").rstrip("\r\n").partition(" ")
            number, _, text = rest.partition(" ")
            if verb == "READY":
                self.kernel = rest
                self._ready.set()
            elif verb == "OUT":
                self._jobs[int(number)].put(text)
            elif verb == "EXIT":
                self._jobs.pop(int(number)).put(int(text))
        self.alive = False
        self._ready.set()
        for job in self._jobs.values():
            job.put(-1)


def _qemu_command(folder: Path, console: Path, memory_mib: int, cpus: int) -> list[str]:
    append = (
        "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr random.trust_cpu=on "
        "tsc=reliable no_timer_check nowatchdog audit=0"
    )
    command = f"""
        qemu-system-x86_64 -machine q35,usb=off,vmport=off,smbus=off,sata=off,hpet=off
        -accel tcg,thread=multi -cpu max -smp {cpus} -m {memory_mib}
        -nodefaults -no-user-config -display none -no-reboot -rtc base=utc -device virtio-rng-pci
        -chardev stdio,id=agent,signal=off -device virtio-serial-pci
        -device virtserialport,chardev=agent,name=org.sds.agent
        -netdev user,id=n0,net=10.0.2.0/24,host=10.0.2.2 -device virtio-net-pci,netdev=n0,romfile=
    """.split()
    return [
        *command,
        *("-chardev", f"file,id=console,path={console}", "-serial", "chardev:console"),
        *("-kernel", str(folder / "kernel"), "-initrd", str(folder / "initrd"), "-append", append),
    ]


def _user_mode_command(folder: Path, work: Path, memory_mib: int) -> list[str]:
    """The agent's port is the first serial line, on standard input and output; the console is on standard error."""
    command = f"""
        {folder}/kernel mem={memory_mib}M umid=guest uml_dir={work} initrd={folder}/initrd
        eth0=slirp,,/usr/bin/slirp-fullbolt con=null con0=null,fd:2 ssl0=fd:0,fd:1 agent=ttyS0
        quiet loglevel=4 panic=-1
    """
    return command.split()
