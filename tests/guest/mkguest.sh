#!/usr/bin/env bash
# Assembles the test guest: Debian's own kernel and a small initramfs that holds
# real Linux initiators (nvme-cli, open-iscsi), file system tools and fio, all
# taken from the packages installed on this machine. Nothing is downloaded.
#
#   mkguest.sh KERNEL MODULES OUT   KERNEL an image, MODULES the folder of its release's
#                                   modules, OUT a folder that gets `kernel` and `initrd`
#                                   (about 30 MB, lz4)
#
# lz4 is chosen over zstd because the guest's CPU may be emulated: it boots fastest.
set -euo pipefail
kernel=$1 modbase=$2 out=$3
kver=${modbase##*/}
here=$(cd "$(dirname "$0")" && pwd)
PATH=/usr/sbin:/sbin:/usr/bin:/bin
[ -d "$modbase" ] || { echo "mkguest: no modules of kernel $kver: run deploy/setup/apt.sh test" >&2; exit 2; }

programs=(
  bash timeout ip jq
  nvme iscsid iscsiadm fio
  mke2fs e2fsck mkfs.xfs xfs_repair
  sg_inq sg_vpd sg_readcap sg_luns sg_turs sg_opcodes sg_sync sg_unmap sg_write_same
  sg_compare_and_write sg_get_lba_status sg_reset lsscsi
  blkdiscard fstrim lsblk blkid blockdev mount umount sha256sum
)
modules=(
  virtio_pci virtio_net virtio_console virtio_rng
  nvme-core nvme-fabrics nvme-tcp nvmet nvmet-tcp
  libiscsi iscsi_tcp scsi_transport_iscsi sd_mod sg
  target_core_mod target_core_file iscsi_target_mod
  ext4 xfs loop configfs
  crc32c crc32c_generic crc32c-intel libcrc32c crc32_generic crc64-rocksoft crct10dif_generic t10-pi
)

root=$(mktemp -d) base=$(mktemp -d)
trap 'rm -rf "$root" "$base"' EXIT
# Where modprobe and depmod look, wherever the modules are.
mkdir -p "$base/lib/modules"; ln -s "$modbase" "$base/lib/modules/$kver"
libs=$root/lib/x86_64-linux-gnu
mkdir -p "$out" "$libs" "$root"/{bin,usr,dev,proc,sys,run,tmp,mnt,root,var/lib/iscsi,var/lock,lib/modules}
mkdir -p "$root"/etc/{iscsi,nvme}
ln -s ../bin "$root/usr/bin"; ln -s ../bin "$root/usr/sbin"; ln -s ../lib "$root/usr/lib"
ln -s bin "$root/sbin"; ln -s lib "$root/lib64"; ln -s /run "$root/var/run"

# -- Programs and the closure of their shared libraries.
declare -A seen=()
add_libs() {
  local lib
  while read -r lib; do
    [ -n "$lib" ] && [ -z "${seen[$lib]:-}" ] || continue
    seen[$lib]=1
    case $lib in
      */ld-linux*) cp -L "$lib" "$root/lib/" ;;
      *) cp -L "$lib" "$libs/" ;;
    esac
  done < <(ldd "$1" 2>/dev/null | awk '/=> \//{print $3} $1 ~ /^\//{print $1}')
}
cp -L "$(type -P busybox)" "$root/bin/busybox"
add_libs "$root/bin/busybox"
for applet in $("$root/bin/busybox" --list); do
  [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
for name in "${programs[@]}"; do
  path=$(type -P "$name") || { echo "mkguest: no program $name: run deploy/setup/apt.sh test" >&2; exit 2; }
  rm -f "$root/bin/$name"
  cp -L "$path" "$root/bin/$name"
  add_libs "$path"
done
ln -sf mke2fs "$root/bin/mkfs.ext4"
cp -L /lib/x86_64-linux-gnu/libnss_files.so.2 "$libs/"
# fio pulls in 30 MB of ICU data through librbd and libxml2, which nothing here
# reads. A stub with its one symbol halves the image; locale look-ups then fail.
for icu in "$libs"/libicudata.so.*; do
  [ -e "$icu" ] || continue
  version=${icu##*.so.}
  printf 'const char icudt%s_dat[64] = {0};\n' "${version%%.*}" > "$root/icu.c"
  gcc -shared -fPIC -Wl,-soname,"libicudata.so.${version%%.*}" -o "$icu" "$root/icu.c"
  rm "$root/icu.c"
done
find "$root/bin" "$libs" -type f -exec strip --strip-unneeded {} + 2>/dev/null || true

# -- Kernel modules and the closure of their dependencies.
mod=$root/lib/modules/$kver
mkdir -p "$mod"
cp "$modbase"/modules.{builtin,builtin.modinfo,order} "$mod/"
[ -f "$modbase/modules.dep" ] || depmod -b "$base" "$kver"
for name in "${modules[@]}"; do
  # A name that is built in, or that this kernel does not have, prints no insmod line.
  while read -r verb path _; do
    [ "$verb" = insmod ] && [ -z "${seen[$path]:-}" ] || continue
    seen[$path]=1
    rel=${path#*/lib/modules/"$kver"/}
    mkdir -p "$mod/$(dirname "$rel")"
    case $path in
      *.xz) xz -dc "$path" > "$mod/${rel%.xz}" ;;
      *.zst) zstd -qdc "$path" > "$mod/${rel%.zst}" ;;
      *) cp "$path" "$mod/$rel" ;;
    esac
  done < <(modprobe -d "$base" -S "$kver" --show-depends -a "$name" 2>/dev/null || true)
done
find "$mod" -name '*.ko' -exec strip --strip-debug {} +
depmod -b "$root" "$kver"

# -- Configuration.
echo 'root:x:0:0:root:/root:/bin/bash' > "$root/etc/passwd"
echo 'root:x:0:' > "$root/etc/group"
echo 'passwd: files' > "$root/etc/nsswitch.conf"
echo '127.0.0.1 localhost guest' > "$root/etc/hosts"
grep -v '^iscsid.startup' /etc/iscsi/iscsid.conf |
  sed 's/^node.startup.*/node.startup = manual/' > "$root/etc/iscsi/iscsid.conf"
echo 'InitiatorName=iqn.2026-01.test.guest:init0' > "$root/etc/iscsi/initiatorname.iscsi"
echo 'nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555' > "$root/etc/nvme/hostnqn"
echo '11111111-2222-3333-4444-555555555555' > "$root/etc/nvme/hostid"
install -m755 "$here/guest-init" "$root/init"
install -m644 "$here/guestlib.sh" "$root/lib/guestlib.sh"

(cd "$root" && find . -print0 | sort -z | cpio --null -o -H newc --quiet -R 0:0) |
  lz4 -q -l -9 > "$out/initrd"
cp -L "$kernel" "$out/kernel"
echo "guest image $kver: initrd $(stat -c %s "$out/initrd") bytes, $(find "$mod" -name '*.ko' | wc -l) modules"
