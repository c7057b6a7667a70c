#!/usr/bin/env bash
# Runs a command in an emulated 64-bit Raspberry Pi: a Debian arm64 userland under qemu-user, on an x86_64 Debian, as root.
#
#   emulate.sh DIR [NAME=VALUE...] COMMAND [ARGUMENT...]
#
# DIR holds the root file system; it is made on the first use, in 10 s. The current directory is /mnt inside, and the
# command starts there.
#   PI_SUITE   bookworm (Raspberry Pi OS 12, Python 3.11, the default) or trixie (13, Python 3.13); a DIR is of one suite
#   PI_CPU     cortex-a53 (Pi 3, Zero 2), cortex-a72 (Pi 4, the default) or cortex-a76 (Pi 5)
#   PI_COUNT   1: count instructions, see insn_count.c; the command is then a program in /usr/bin or a full path
#   PI_CACHE   a folder of this machine that keeps what pip downloads inside
#   PI_MIRROR  where the packages come from; else where this machine's own come from, see apt's sources
# What tells pip and others about an index, a proxy or a certificate (PIP_INDEX_URL, https_proxy, ...) is passed on.
# Exit status 3: this machine cannot emulate one; one line on stderr says why.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
[ $# -ge 2 ] || { sed -n '2,/^set/s/^# \?//p' "$0"; exit 2; }
cannot() { echo "emulate.sh: $*" >&2; exit 3; }
root=$(readlink -m "$1"); shift
suite=${PI_SUITE:-bookworm}
cpu=${PI_CPU:-cortex-a72}
case $cpu in
  cortex-a53) part=0xd03 features= ;;
  cortex-a72) part=0xd08 features= ;;
  cortex-a76) part=0xd0b features=" atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp" ;;
  *) echo "emulate.sh: PI_CPU=$cpu: expected cortex-a53, cortex-a72 or cortex-a76" >&2; exit 2 ;;
esac
case $suite in bookworm | trixie) ;; *) echo "emulate.sh: PI_SUITE=$suite: expected bookworm or trixie" >&2; exit 2 ;; esac

# The tools, and the kernel's rule that starts arm64 programs under qemu.
[ "$EUID" = 0 ] || cannot "needs root"
[ "$(uname -m)" = x86_64 ] || cannot "needs an x86_64 machine, this is $(uname -m)"
missing=
for tool in qemu-aarch64:qemu-user qemu-aarch64-static:qemu-user-static update-binfmts:binfmt-support mmdebstrap:mmdebstrap; do
  type -P "${tool%:*}" >/dev/null || missing+=" ${tool#*:}"
done
[ -z "$missing" ] || cannot "apt install$missing"
rules=/proc/sys/fs/binfmt_misc
[ -e $rules/register ] || mount -t binfmt_misc binfmt_misc $rules || cannot "$rules cannot be mounted"
[ -e $rules/qemu-aarch64 ] || update-binfmts --enable qemu-aarch64 || cannot "the rule for qemu-aarch64 cannot be enabled"

# The root file system: packages unpacked, not configured, which is enough for Python and pip.
if [ ! -e "$root/.made" ]; then
  mirror=${PI_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' 2>/dev/null | head -n 1)}
  mkdir -p "$root"; rmdir "$root" # stops here if DIR holds something else
  new=$root.new; rm -rf "$new"
  mmdebstrap --quiet --arch=arm64 --variant=extract --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --include=python3,python3-pip,python3-venv,libstdc++6,libgomp1,bash,dash,coreutils,grep,sed \
    "$suite" "$new" ${mirror:+"$mirror"} >"$root.log" 2>&1 || {
      rm -rf "$new"
      cannot "no packages for $suite: $(grep -m 1 -E '^(E|W):' "$root.log" || tail -n 1 "$root.log")"
    }
  rm -f "$root.log"
  mkdir -p "$new"/{proc,dev,mnt,lib64,etc/ssl/certs,usr/lib/x86_64-linux-gnu,sys/devices/system/cpu}
  cp /etc/ssl/certs/ca-certificates.crt "$new/etc/ssl/certs/"
  echo 0-3 | tee "$new"/sys/devices/system/cpu/{possible,present} >/dev/null
  touch "$new/usr/bin/qemu-aarch64" "$new/.made"
  mv "$new" "$root"
fi
cp --remove-destination /etc/resolv.conf "$root/etc/resolv.conf"

# The libraries (cpuinfo in XNNPACK) read the processor's kind from files; with the host's, they crash or leave XNNPACK out.
for i in 0 1 2 3; do
  printf 'processor\t: %s\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid%s\nCPU implementer\t: 0x41\n' $i "$features"
  printf 'CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: %s\nCPU revision\t: 3\n\n' $part
done >"$root/etc/cpuinfo.$cpu.$$"
mv "$root/etc/cpuinfo.$cpu.$$" "$root/etc/cpuinfo.$cpu"

vars=(PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root LANG=C.UTF-8 QEMU_CPU="$cpu"
  PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore)
for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
  [ -z "${!name-}" ] || vars+=("$name=${!name}")
done
while [[ ${1-} == [A-Za-z_]*=* ]]; do vars+=("$1"); shift; done
qemu=()
if [ "${PI_COUNT:-}" = 1 ]; then # the static qemu takes no plugin, so the dynamic one is lent to the root, with the host's libraries
  if [ ! "$root/insn_count.so" -nt "$here/insn_count.c" ]; then
    type -P cc >/dev/null || cannot "apt install gcc"
    cc -O2 -shared -fPIC -o "$root/insn_count.so" "$here/insn_count.c"
  fi
  qemu=(/usr/bin/qemu-aarch64 -cpu "$cpu" -plugin /insn_count.so)
  [[ $1 == */* ]] || set -- "/usr/bin/$1" "${@:2}"
  vars+=(PYTHONHASHSEED=0 OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1)
fi

# All mounts are private to this command: nothing is left to unmount.
exec env -i "${vars[@]}" unshare --mount --propagation private bash -ec '
  root=$1 cpu=$2 cache=$3; shift 3
  mount -t proc proc "$root/proc"
  mount --bind "$root/etc/cpuinfo.$cpu" "$root/proc/cpuinfo"
  mount --rbind /dev "$root/dev"
  mount --bind "$PWD" "$root/mnt"
  [ -z "$cache" ] || { mkdir -p "$cache" "$root/root/.cache/pip"; mount --bind "$cache" "$root/root/.cache/pip"; }
  for path in /lib64 /usr/lib/x86_64-linux-gnu /usr/bin/qemu-aarch64; do mount --bind -o ro $path "$root$path"; done
  exec unshare --root="$root" --wd=/mnt "$@"' emulate.sh "$root" "$cpu" "${PI_CACHE:-}" "${qemu[@]}" "$@"
