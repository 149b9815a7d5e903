"""What an administrator's Linux host does with a volume, the same over each protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.guest.guest import Guest, Job

# Over the initramfs' own programs and kernel modules, about 25 MB in 400 files: the tree that is copied and checked.
TREE = "/bin /lib/modules"


@dataclass(frozen=True)
class Wire:
    """A protocol with the options that the host asks for at login."""

    name: str
    protocol: str
    options: str

    def __str__(self) -> str:
        return self.name


_ISCSI_DIGESTS = " ".join(f"node.conn[0].iscsi.{part}Digest=CRC32C" for part in ("Header", "Data"))
WIRES: Sequence[Wire] = (
    Wire("nvme", "nvme", ""),
    Wire("nvme-digests", "nvme", "-g -G"),
    Wire("iscsi", "iscsi", ""),
    Wire("iscsi-digests", "iscsi", _ISCSI_DIGESTS),
)


@dataclass
class Host:
    """The guest as a host of one target.

    Attributes:
        target: the NQN or IQN.
        port: where the target listens, on the address that `address` names.
        unit: the nsid or LUN.
        dev: the block device while attached, as in `/dev/nvme0n1`.
    """

    guest: Guest
    wire: Wire
    target: str
    port: int
    unit: int
    address: str = "10.0.2.2"
    dev: str = ""

    def run(self, script: str, *, limit_s: float = 60) -> Job:
        """Runs a script that finds `$DEV`, `attach` and `detach` set up for this target."""
        return self.guest.run(script, env=self._env(), limit_s=limit_s)

    def start(self, script: str, *, limit_s: float) -> Job:
        """As `run`, in the background."""
        return self.guest.start(script, env=self._env(), limit_s=limit_s)

    def discover(self) -> list[str]:
        """The names of the targets that discovery shows."""
        if self.wire.protocol == "nvme":
            script = (
                "modprobe -a nvme-core nvme-fabrics nvme-tcp\n"
                'nvme discover -t tcp -a "$HOST" -s "$PORT" -o json | jq -r ".records[].subnqn"'
            )
        else:
            # Discovery leaves node records for the portals that the target announced; `attach` makes its own.
            script = """
                iscsi_start
                iscsiadm -m discovery -t sendtargets -p "$HOST:$PORT" | cut -d" " -f2
                iscsiadm -m node -o delete >/dev/null 2>&1 || true
            """
        return self.run(script, limit_s=20).lines

    def attach(self) -> None:
        """Connects, and finds the block device."""
        self.dev = self.run('dev=$(attach); echo "dev=$dev"', limit_s=40).value("dev")
        if self.wire.name == "iscsi-digests":
            self.run("test \"$(cat /sys/class/iscsi_connection/connection*/{header,data}_digest | tr -d '\\n')\" = 11")

    def detach(self) -> None:
        """Disconnects cleanly."""
        self.run("detach", limit_s=30)
        self.dev = ""

    def copy_tree(self, fs: str) -> str:
        """Makes a file system, copies a tree onto it, unmounts; returns the tree's checksum."""
        flags = {"ext4": "-q -E nodiscard", "xfs": "-q -K -f"}[fs]
        script = f"""
            modprobe {fs}; mkdir -p /mnt/a; mkfs.{fs} {flags} "$DEV"; mount "$DEV" /mnt/a
            for dir in {TREE}; do mkdir -p "/mnt/a$dir"; cp -a "$dir/." "/mnt/a$dir/"; done
            echo "sum=$(tree_sum /mnt/a)"; umount /mnt/a
        """
        return self.run(script, limit_s=90).value("sum")

    def read_tree(self, fs: str) -> str:
        """Mounts, reads the tree back from the device, checks the file system; returns the tree's checksum."""
        fsck = {"ext4": "e2fsck -fn", "xfs": "xfs_repair -n"}[fs]
        script = f"""
            mkdir -p /mnt/a; mount -o ro "$DEV" /mnt/a; drop_caches; echo "sum=$(tree_sum /mnt/a)"; umount /mnt/a
            {fsck} "$DEV" > /tmp/fsck.out 2>&1 || {{ cat /tmp/fsck.out; exit 1; }}
        """
        return self.run(script, limit_s=90).value("sum")

    def verify(self, mib: int = 16) -> None:
        """Small writes that fit a command capsule, then mixed ones up to 512 KiB that do not; all read back."""
        script = f"""
            verify "$DEV" --bs=4k --iodepth=16 --size={mib}M --verify_backlog=512
            verify "$DEV" --bsrange=4k-512k --iodepth=8 --size={4 * mib}M
        """
        self.run(script, limit_s=120)

    def _env(self) -> dict[str, object]:
        return {
            "HOST": self.address,
            "PROTOCOL": self.wire.protocol,
            "TARGET": self.target,
            "PORT": self.port,
            "UNIT": self.unit,
            "OPTIONS": self.wire.options,
            "DEV": self.dev,
        }
