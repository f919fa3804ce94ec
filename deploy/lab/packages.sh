#!/usr/bin/env bash
# packages.sh NAME... - make sure that these are here, from the distribution's packages where they are missing.
#
# NAME is rabbitmq, etcd, haproxy, nginx (with its stream module), compiler (of C) or a package of the distribution.
# Their services are neither started nor enabled, and a service that is there already is left as it is. Without anything to install it does nothing and needs no rights.
set -eu -o pipefail
cd "$(dirname "$0")/../.."

log=${LAB_DIR:-.lab}/apt.log
policy=/usr/sbin/policy-rc.d

say() { echo "$*" >&2; }

has() { command -v "$1" >/dev/null 2>&1; }

has_candidate() { apt-cache policy "$1" 2>/dev/null | grep 'Candidate: [^(]' >/dev/null; }

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null | cut -c1-2)" = ii ]; }

# Prints the packages that are missing for one name. Debian 12 and Ubuntu 24.04 split etcd in two, older ones do not.
missing_for() {
  case $1 in
    rabbitmq)
      [ -n "${RABBITMQ_HOME:-}${RABBITMQ_ROOT:-}" ] ||
        compgen -G '/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server' >/dev/null ||
        echo rabbitmq-server
      ;;
    etcd)
      if has etcd && has etcdctl; then return; fi
      if has apt-cache && ! has_candidate etcd-server && has_candidate etcd; then
        echo etcd
      else
        echo etcd-server etcd-client
      fi
      ;;
    haproxy) has haproxy || [ -x /usr/sbin/haproxy ] || echo haproxy ;;
    nginx) has nginx || [ -x /usr/sbin/nginx ] || echo nginx-light libnginx-mod-stream ;;
    compiler) has gcc || has cc || echo gcc libc6-dev ;;
    *) is_installed "$1" || echo "$1" ;;
  esac
}

become_root() {
  as_root=()
  [ "$(id -u)" = 0 ] && return
  if has sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
    as_root=(sudo)
    return
  fi
  say "Missing: $*. Installing it needs root, and sudo is not usable here. Run this as root, then try again:"
  say "  apt-get update && apt-get install -y $*"
  exit 77
}

# While this file exists, dpkg starts no service of the packages named; every other service is its own master.
forbid_start() {
  saved=
  if "${as_root[@]}" test -e $policy; then
    saved=$policy.before-sidehop
    "${as_root[@]}" mv $policy $saved
  fi
  trap allow_start EXIT
  trap 'exit 130' INT TERM HUP
  # shellcheck disable=SC2016  # $1 and $@ are for the file that is written
  printf '#!/bin/sh\ncase "$1" in rabbitmq-server*|etcd*|haproxy*|nginx*|epmd*) exit 101;; esac\n%s\n' \
    "${saved:+exec $saved \"\$@\"}" | "${as_root[@]}" tee $policy >/dev/null
  "${as_root[@]}" chmod 755 $policy
}

allow_start() {
  "${as_root[@]}" rm -f $policy
  [ -z "$saved" ] || "${as_root[@]}" mv "$saved" $policy
  trap - EXIT
}

# Debian enables what it installs. After the next boot the broker's service would sit on the port of Sidehop.
disable_new_services() {
  has systemctl || return 0
  local package
  for package in "$@"; do
    case $package in
      rabbitmq-server | haproxy) "${as_root[@]}" systemctl disable "$package.service" ;;
      nginx-light) "${as_root[@]}" systemctl disable nginx.service ;;
      etcd | etcd-server) "${as_root[@]}" systemctl disable etcd.service ;;
    esac
  done >>"$log" 2>&1 || true
}

lists_are_empty() { ! compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null; }

apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y "$@"; }

refresh_lists() {
  say "  reading the package lists ..."
  apt update >>"$log" 2>&1 || true # what counts is whether the installation works
}

# Says which packages are ready as they are; everything else goes to the log.
apt_install() {
  apt install --no-install-recommends "$@" 2>&1 | tee -a "$log" | sed -n 's/^Setting up \([^ ]*\).*/  \1/p' >&2
}

install() {
  if ! has apt-get; then
    say "Missing: $*. This is no Debian or Ubuntu; install it with the package tool of this system, then try again."
    exit 69
  fi
  become_root "$@"
  mkdir -p "$(dirname "$log")"
  say "installing from the distribution: $* (log: $log)"
  : >"$log"
  forbid_start
  if lists_are_empty; then refresh_lists; fi
  if ! apt_install "$@" && { refresh_lists && ! apt_install "$@"; }; then
    tail -15 "$log" >&2
    say "The installation failed. Run this and look at its answer, then try again:"
    say "  ${as_root[*]:+sudo }apt-get update && ${as_root[*]:+sudo }apt-get install -y $*"
    exit 69
  fi
  disable_new_services "$@"
}

missing=()
for wanted in "$@"; do
  read -r -a found <<<"$(missing_for "$wanted")"
  missing+=("${found[@]}")
done
[ ${#missing[@]} = 0 ] || install "${missing[@]}"
