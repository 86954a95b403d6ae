#!/usr/bin/env bash
# Runs a command on a clean Debian in a folder, in a fresh clone of HEAD: python3, venv, make and git,
# no compiler, no GL library, nothing that this machine has installed or cached.
#
#   make fresh                                   make demo && make test, on this machine's release
#   make fresh SUITE=trixie COMMAND='make test'  another one
#
# Of this machine it sees copies of what reaches packages (names, certificates, apt's mirror and
# proxies, pip's settings) and, read-only, the local folders of packages that pip's settings name.
# Needs root, debootstrap and 10 GB in $FRESH. The bootstrapped release stays there for the next
# time; the copy of it that runs is removed.
set -euo pipefail

COMMAND=${COMMAND:-make demo && make test}
SUITE=${SUITE:-$(. /etc/os-release && echo "${VERSION_CODENAME:-}")}
FRESH=${FRESH:-/var/cache/diswm}

refuse() { echo "$1" >&2; exit 2; }
[ "$(id -u)" = 0 ] || refuse "a Debian in a folder needs root: sudo make fresh"
command -v debootstrap >/dev/null || refuse "debootstrap is needed: apt-get install debootstrap"
[ -n "$SUITE" ] || refuse "no release: make fresh SUITE=trixie"

clean=$FRESH/$SUITE
if [ ! -d "$clean" ]; then
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Label: Debian' 2>/dev/null | head -n 1 || true)
  mkdir -p "$FRESH"
  rm -rf --one-file-system "$clean.part"  # of a bootstrap that was stopped
  debootstrap --variant=minbase --include=python3,python3-venv,make,git,ca-certificates \
    "$SUITE" "$clean.part" ${mirror:+"$mirror"} >"$clean.log" 2>&1 \
    || refuse "debootstrap could not make a Debian $SUITE: $clean.log says why"
  mv "$clean.part" "$clean"
fi

# All mounts are made in a namespace of this script's own, which ends with the command.
root=$(mktemp -d "$FRESH/run.XXXXXX")
clean_up() {
  # The command's first process ends all others with it.
  [ -z "${job:-}" ] || { pkill -KILL -P "$job"; wait "$job"; } || true
  rm -rf --one-file-system "$root"
}
trap clean_up EXIT
cp -a "$clean/." "$root"
git clone --quiet --depth 1 "file://$(git rev-parse --show-toplevel)" "$root/project"

for path in /etc/hosts /etc/resolv.conf /etc/ssl/certs /usr/local/share/ca-certificates \
            /etc/pip.conf /etc/xdg/pip "$HOME/.config/pip" "$HOME/.pip"; do
  # A link there is replaced, never followed: it would lead out of the folder.
  [ ! -e "$path" ] || cp -rL --remove-destination --parents "$path" "$root"
done
apt-config dump 2>/dev/null | grep -E '^Acquire::(http|https|Retries)' \
  >"$root/etc/apt/apt.conf.d/99machine" || true

settings=()  # proxies, certificates and pip's settings in the environment
for name in $(compgen -e); do
  [[ $name =~ ^(PIP_.*|(SSL|CURL|REQUESTS)_.*|.*_(proxy|PROXY))$ ]] && settings+=("$name=${!name}")
done

# The folders in pip's settings; beside a local index (file://.../simple) lie the files it links to.
folders=$(
  { python3 -m pip config list || true; printf '%s\n' "${settings[@]}"; } 2>/dev/null \
    | grep -oE "(file://)?/[^/ '\",][^ '\",]*" \
    | while read -r path; do
        case $path in file://*) dirname "${path#file://}" ;; *) echo "$path" ;; esac
      done | sort -u
)

inside() {
  while read -r path; do
    [ -e "$path" ] && [ ! -e "$root$path" ] || continue
    if [ -d "$path" ]; then mkdir -p "$root$path"
    else mkdir -p "$(dirname "$root$path")"; touch "$root$path"; fi
    mount --bind "$path" "$root$path"
    mount -o remount,bind,ro "$root$path"
  done <<<"$folders"
  mount -t proc proc "$root/proc"
  mount -t sysfs -o ro sysfs "$root/sys"
  mount --rbind /dev "$root/dev"
  chroot "$root" /usr/bin/env -i "$@" HOME="$HOME" LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    bash -c "cd /project && $COMMAND"
}
export -f inside
export root folders COMMAND
mkdir -p "$root$HOME"
unshare --mount --propagation private --pid --fork --kill-child \
  bash -euo pipefail -c 'inside "$@"' bash "${settings[@]}" &
job=$!
wait "$job"
