#!/usr/bin/env bash
# rabbitmq4.sh [FOLDER] - RabbitMQ 4.0 beside whatever RabbitMQ this machine has; cluster.sh runs it with RABBITMQ_ROOT=FOLDER.
#
# FOLDER (.lab/rabbitmq4) gets RabbitMQ, Erlang and the C library of Debian 13, unpacked and not installed: nothing of
# the system is changed, no rights are needed, nothing is mounted. 230 MB while it is made, 150 MB afterwards.
# Does nothing when it is there already. It can't be moved, since its programs know its path.
#
# Needs apt-get, dpkg-deb and a Debian mirror: the one that apt on this machine uses, or RABBITMQ4_MIRROR=URL.
set -eu -o pipefail
cd "$(dirname "$0")/../.."

folder=$(realpath -m "${1:-${LAB_DIR:-.lab}/rabbitmq4}")
suite=trixie
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
mark=$folder/.sidehop-rabbitmq4
log=$folder.log

say() { echo "$*" >&2; }

fail() {
  say "$1"
  [ ! -s "$log" ] || tail -5 "$log" >&2
  exit 69
}

is_there() { [ "$(cat "$mark" 2>/dev/null)" = "$folder" ]; }

require_tools() {
  local tool
  for tool in apt-get dpkg-deb; do
    command -v "$tool" >/dev/null || fail "RabbitMQ 4.0 is unpacked from Debian's packages, which needs $tool: use a Debian or Ubuntu"
  done
}

# A folder that somebody else filled is not ours to empty.
make_empty() {
  if [ -e "$folder" ] && [ ! -e "$mark" ] && [ -n "$(ls -A "$folder")" ]; then
    fail "$folder is not empty and was not made by this script; name another folder"
  fi
  rm -rf "$folder"
  mkdir -p "$folder"/apt/{lists,archives}/partial
  : >"$mark"
  : >"$folder/apt/status"
}

# An apt with a world of its own, in which nothing is installed. What the system says of proxies and logins still holds.
apt() {
  apt-get -y -q \
    -o Dir::Etc::sourcelist="$folder/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null -o APT::Default-Release= \
    -o Dir::State::lists="$folder/apt/lists" -o Dir::State::status="$folder/apt/status" \
    -o Dir::Cache="$folder/apt" -o Dir::Cache::archives="$folder/apt/archives" \
    -o APT::Sandbox::User="$(id -un)" -o APT::Install-Recommends=false -o Acquire::Languages=none -o Debug::NoLocking=true \
    -o APT::Update::Error-Mode=any "$@" >>"$log" 2>&1
}

mirrors() {
  if [ -n "${RABBITMQ4_MIRROR:-}" ]; then
    echo "$RABBITMQ4_MIRROR"
  else
    # shellcheck disable=SC2016  # apt replaces it
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | awk '!seen[$0]++'
  fi
}

# Not every archive that apt knows has this suite; the first one that has it is taken.
find_suite() {
  local mirror options=
  [ ! -e $keyring ] || options="[signed-by=$keyring] "
  while read -r mirror; do
    echo "deb $options$mirror $suite main" >"$folder/apt/sources.list"
    if apt update; then return; fi
  done < <(mirrors)
  say "No archive that apt uses here has Debian 13 ($suite), or none is reachable. Name a mirror of Debian and try again:"
  say "  RABBITMQ4_MIRROR=http://HOST/debian $0"
  [ -e $keyring ] || say "Its keys are in the package debian-archive-keyring, which is not installed."
  fail "What apt said is in $log:"
}

unpack() {
  local package
  apt install --download-only rabbitmq-server patchelf || fail "The packages can't be fetched; see $log:"
  for package in "$folder"/apt/archives/*.deb; do
    dpkg-deb --extract "$package" "$folder" 2>>"$log" || fail "$package can't be unpacked; see $log:"
  done
  rm -rf "$folder/apt"
}

# Erlang looks for itself in /usr/lib/erlang, and its programs would take the loader and libraries of this machine,
# which may be older than they bear.
bind_to_folder() {
  local erlang=$folder/usr/lib/erlang loader libraries program
  loader=$(compgen -G "$folder/usr/lib*/ld-linux*.so.?" | head -n 1)
  libraries=$(compgen -G "$folder/usr/lib/*-linux-gnu*" | head -n 1)
  sed -i "s|=/usr/lib/erlang\$|=$erlang|" "$erlang/bin/erl" "$erlang"/erts-*/bin/erl
  local patchelf=("$loader" --library-path "$libraries" "$folder/usr/bin/patchelf")
  while read -r program; do
    # Only what the kernel starts by way of a loader has one; the rest are scripts.
    "${patchelf[@]}" --print-interpreter "$program" >/dev/null 2>&1 || continue
    "${patchelf[@]}" --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$program" >>"$log" 2>&1 ||
      fail "$program can't be bound to $folder; see $log:"
  done < <(find "$erlang" -type f -perm /111)
}

require_erlang() {
  "$folder/usr/lib/erlang/bin/erl" -noinput -eval 'crypto:start(), halt().' >>"$log" 2>&1 ||
    fail "Erlang does not start from $folder; see $log:"
}

if is_there; then exit 0; fi
mkdir -p "$(dirname "$folder")"
exec 9>"$folder.lock" # two test runs may want it at the same time
flock 9
if is_there; then exit 0; fi
: >"$log"
require_tools
say "fetching RabbitMQ 4.0 of Debian 13 into $folder; the first time takes a minute ..."
make_empty
find_suite
unpack
bind_to_folder
require_erlang
echo "$folder" >"$mark"
