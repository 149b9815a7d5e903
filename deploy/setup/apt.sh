#!/usr/bin/env bash
# Installs the Debian packages that are missing, and does nothing when none is.
#
#   apt.sh run     what building and running takes
#   apt.sh test    that, and what the tests drive the product with
#
# Needs root or sudo only when something is missing.
set -euo pipefail
run=(python3 python3-venv gcc libc6-dev)
test=(
  linux-image-cloud-amd64 qemu-system-x86 user-mode-linux slirp busybox lz4 cpio kmod binutils g++
  nvme-cli open-iscsi fio e2fsprogs xfsprogs libfuse3-3 libiscsi7
  sg3-utils lsscsi iproute2 jq udev libiscsi-bin qemu-utils qemu-block-extra
)
case ${1:-} in
  run) wanted=("${run[@]}") ;;
  test) wanted=("${run[@]}" "${test[@]}") ;;
  *) echo "apt.sh: say run or test" >&2; exit 2 ;;
esac
command -v dpkg-query >/dev/null || { echo "apt.sh: not a Debian system; it would need: ${wanted[*]}" >&2; exit 1; }
# A Python of another origin than Debian's brings its own venv module.
if python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  wanted=("${wanted[@]/#python3*/}")
fi
missing=()
for package in "${wanted[@]}"; do
  [ -n "$package" ] || continue
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
as_root=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "as root, please: apt-get install ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
echo "installing: ${missing[*]}"
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -q --no-install-recommends "${missing[@]}"
