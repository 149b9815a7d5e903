# Read at the head of every job in the guest. A failing command ends the job and is named.
set -eEuo pipefail
shopt -s inherit_errexit
trap 'echo "guest: status $? from: $BASH_COMMAND"' ERR
HOST=${HOST:-10.0.2.2}    # The host's loopback, as QEMU's user network shows it.

# waitfor SECONDS CMD...: runs CMD until it succeeds.
waitfor() {
  local end=$((${EPOCHREALTIME/./} + $1 * 1000000)); shift
  until "$@" >/dev/null 2>&1; do
    [ "${EPOCHREALTIME/./}" -lt "$end" ] || { echo "guest: waited in vain for: $*"; return 1; }
    sleep 0.1
  done
}
# fails CMD...: succeeds when CMD fails; its output is kept for the test to look at.
fails() { if "$@"; then echo "guest: expected to fail: $*"; return 1; fi; }
drop_caches() { sync; echo 3 > /proc/sys/vm/drop_caches; }
# tree_sum DIR: one checksum over every file's name and bytes.
tree_sum() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1); }

# -- Attaching a volume, the same way over each protocol. The test sets:
#    PROTOCOL nvme|iscsi   TARGET nqn or iqn   PORT   UNIT nsid or lun   OPTIONS, extra ones
# attach: prints the block device.
attach() { "${PROTOCOL}_attach" "$TARGET" "$PORT" "$UNIT" ${OPTIONS:-}; }
detach() { "${PROTOCOL}_detach" "$TARGET"; }

# nvme_attach NQN PORT NSID OPTS...
# The short retry delay keeps tests short; the long loss time-out means that a slow restart is no error.
nvme_attach() {
  local nqn=$1 port=$2 nsid=$3; shift 3
  modprobe -a nvme-core nvme-fabrics nvme-tcp
  nvme connect -t tcp -a "$HOST" -s "$port" -n "$nqn" --reconnect-delay 1 --ctrl-loss-tmo 120 "$@" >&2
  waitfor 15 nvme_dev "$nqn" "$nsid" >&2
  nvme_dev "$nqn" "$nsid"
}
nvme_detach() { nvme disconnect -n "$1" >&2; }
# nvme_dev NQN NSID: the number in a block device's name is the kernel's own, so the nsid is looked up.
nvme_dev() {
  local subsystem block
  for subsystem in /sys/class/nvme-subsystem/nvme-subsys*; do
    [ "$(cat "$subsystem/subsysnqn" 2>/dev/null)" = "$1" ] || continue
    for block in "$subsystem"/nvme*n*; do
      [ "$(cat "$block/nsid" 2>/dev/null)" = "$2" ] && [ -b "/dev/${block##*/}" ] || continue
      echo "/dev/${block##*/}"; return 0
    done
  done
  return 1
}
# nvme_ctrl NQN: the controller's name, as in nvme0.
nvme_ctrl() {
  local ctrl
  for ctrl in /sys/class/nvme/nvme*; do
    [ "$(cat "$ctrl/subsysnqn" 2>/dev/null)" = "$1" ] && { echo "${ctrl##*/}"; return 0; }
  done
  return 1
}

iscsi_start() {
  modprobe -a iscsi_tcp sd_mod sg
  [ -s /run/iscsid.pid ] && kill -0 "$(cat /run/iscsid.pid)" 2>/dev/null && return 0
  iscsid -c /etc/iscsi/iscsid.conf -i /etc/iscsi/initiatorname.iscsi -p /run/iscsid.pid >/dev/null 2>&1
  waitfor 5 test -s /run/iscsid.pid
}
# iscsi_attach IQN PORT LUN NAME=VALUE...
# The node record is made by hand: behind QEMU's user network the target announces its own 127.0.0.1.
iscsi_attach() {
  local iqn=$1 port=$2 lun=$3 pair; shift 3
  iscsi_start
  iscsiadm -m node -T "$iqn" -p "$HOST:$port" -o new >&2
  for pair in "$@"; do iscsiadm -m node -T "$iqn" -o update -n "${pair%%=*}" -v "${pair#*=}" >&2; done
  iscsiadm -m node -T "$iqn" -p "$HOST:$port" --login >&2
  waitfor 15 iscsi_dev "$iqn" "$lun" >&2
  iscsi_dev "$iqn" "$lun"
}
iscsi_detach() { iscsiadm -m node -T "$1" --logout >&2; iscsiadm -m node -T "$1" -o delete >&2; }
iscsi_dev() {
  local session block
  for session in /sys/class/iscsi_session/session*; do
    [ "$(cat "$session/targetname" 2>/dev/null)" = "$1" ] || continue
    for block in "$session"/device/target*/*:"$2"/block/*; do
      [ -b "/dev/${block##*/}" ] && { echo "/dev/${block##*/}"; return 0; }
    done
  done
  return 1
}

# A multipath NVMe disk keeps no statistics of its own; its one path here does (nvme0c0n1 of nvme0n1).
stat_of() {
  local block=${1#/dev/}
  if [[ $block == nvme* ]]; then block=$(basename /sys/block/"${block%n*}"c*n"${block##*n}"); fi
  cat "/sys/block/$block/stat"
}
writes_done() { stat_of "$1" | awk '{print $5}'; }
flushes_done() { stat_of "$1" | awk '{print $16}'; }

# verify DEV FIO-OPTIONS...: writes, reads back and compares; stops at the first wrong block.
verify() {
  local dev=$1; shift
  fio --name=verify --filename="$dev" --direct=1 --ioengine=libaio --rw=randwrite --randrepeat=0 \
    --verify=crc32c --verify_fatal=1 --output-format=terse --terse-version=3 "$@" > /tmp/fio.out 2>&1 ||
    { cat /tmp/fio.out; return 1; }
  awk -F';' 'NF > 50 {printf "fio: wrote %s KiB at %s IOPS, read back %s KiB\n", $47, $49, $6}' /tmp/fio.out
}

COMPLAINTS='I\/O error|EXT4-fs (error|warning)|XFS .*([Cc]orrupt|error)|BUG:|WARNING:|hung|protocol error|digest error'

# -- Between tests: nothing mounted, nothing attached, and what the kernel complained about is printed.
clean() {
  local point iqn
  for point in $(awk '$2 ~ "^/mnt/" {print $2}' /proc/mounts); do umount -l "$point"; done
  if compgen -G '/sys/class/nvme/nvme*' >/dev/null; then nvme disconnect-all; fi
  for iqn in $(cat /sys/class/iscsi_session/session*/targetname 2>/dev/null || true); do
    iscsiadm -m node -T "$iqn" --logout >/dev/null
  done
  if [ -s /run/iscsid.pid ]; then iscsiadm -m node -o delete >/dev/null 2>&1 || true; fi
  dmesg -c | sed -nE "/$COMPLAINTS/s/^/kernel: /p"
}

# -- The kernel's own targets, as a reference that the client scripts are tried against.
nvmet_start() {
  local nqn=$1 port=$2 dev=$3 c=/sys/kernel/config/nvmet
  modprobe -a nvmet nvmet-tcp
  mkdir -p "$c/subsystems/$nqn/namespaces/1" "$c/ports/1"
  echo 1 > "$c/subsystems/$nqn/attr_allow_any_host"
  echo -n "$dev" > "$c/subsystems/$nqn/namespaces/1/device_path"
  echo 1 > "$c/subsystems/$nqn/namespaces/1/enable"
  echo tcp > "$c/ports/1/addr_trtype"; echo ipv4 > "$c/ports/1/addr_adrfam"
  echo 0.0.0.0 > "$c/ports/1/addr_traddr"; echo "$port" > "$c/ports/1/addr_trsvcid"
  ln -s "$c/subsystems/$nqn" "$c/ports/1/subsystems/"
}
nvmet_stop() {
  local nqn=$1 c=/sys/kernel/config/nvmet
  rm "$c/ports/1/subsystems/$nqn"; rmdir "$c/ports/1" "$c/subsystems/$nqn/namespaces/1" "$c/subsystems/$nqn"
}
lio_start() {
  local iqn=$1 port=$2 file=$3 size=$4 core=/sys/kernel/config/target/core/fileio_0/ref tpg
  modprobe -a target_core_mod target_core_file iscsi_target_mod
  mkdir -p "$core"
  echo "fd_dev_name=$file,fd_dev_size=$size" > "$core/control"; echo 1 > "$core/enable"
  mkdir -p "/sys/kernel/config/target/iscsi/$iqn/tpgt_1"
  tpg=/sys/kernel/config/target/iscsi/$iqn/tpgt_1
  mkdir -p "$tpg/lun/lun_0" "$tpg/np/0.0.0.0:$port"
  ln -s "$core" "$tpg/lun/lun_0/ref"
  echo 0 > "$tpg/attrib/authentication"; echo 1 > "$tpg/attrib/generate_node_acls"
  echo 0 > "$tpg/attrib/demo_mode_write_protect"; echo 1 > "$tpg/enable"
}
