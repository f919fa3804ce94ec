#!/usr/bin/env bash
# venv.sh EXTRA - bring .venv up to date: the package in place, with the extra "try" or "dev" of pyproject.toml.
#
# Needs the network only when something is missing: what was installed is remembered by a checksum of the files that
# decide it. Compiled modules are built again when their source is newer, since Python would prefer the old one.
set -eu
cd "$(dirname "$0")/../.."

extra=${1:?say which extra: try or dev}
venv=.venv
stamp=$venv/.sidehop-installed
wanted=$(cat pyproject.toml setup.py - <<<"pure=${SIDEHOP_PURE:-0}" | sha256sum | cut -d' ' -f1)

say() { echo "$*" >&2; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  say "Python 3.11 or newer is needed; set PYTHON=/path/to/python or run: apt-get install python3.11"
  exit 69
}

make_venv() {
  local python version
  python=$(find_python)
  version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
  # Debian and Ubuntu ship the module that fills a virtual environment apart from Python.
  "$python" -c 'import ensurepip' 2>/dev/null || deploy/lab/packages.sh "$version-venv"
  say "making $venv with $("$python" --version)"
  rm -rf $venv
  "$python" -m venv $venv
}

is_installed() { [ -x $venv/bin/sidehop ] && [ "$(cat $stamp 2>/dev/null)" = "$wanted $extra" ]; }

compiled_is_stale() {
  local product source
  while read -r product; do
    source=${product%%.*}
    if [ "$source.py" -nt "$product" ] || [ "$source.pxd" -nt "$product" ] || [ ! -e "$source.py" ]; then return 0; fi
  done < <(find proxy -name '*.so')
  return 1
}

# A compiled file that can't be built again must not stay behind and shadow its source.
forget_compiled() { find proxy -name '*.so' -delete; }

build_requires() {
  $venv/bin/python -c '
import tomllib
print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"]))'
}

install() {
  local requires
  $venv/bin/python -c '' 2>/dev/null || make_venv
  say "installing Sidehop and what it needs (\"$extra\"); the first time takes a minute ..."
  mapfile -t requires < <(build_requires)
  forget_compiled
  rm -f $stamp
  if ! { $venv/bin/pip install --quiet "${requires[@]}" &&
    $venv/bin/pip install --quiet --no-build-isolation --editable ".[$extra]"; }; then
    say "pip could not install the package; see its message above. It needs a reachable package index."
    say "To try by hand: $venv/bin/pip install --editable '.[$extra]'"
    exit 69
  fi
  find proxy -name '*.so' | grep -q . || say "note: nothing is compiled here; Sidehop runs as plain Python"
  echo "$wanted $extra" >$stamp
}

# "dev" includes "try": what a developer has stays.
case "$(cat $stamp 2>/dev/null)" in *" dev") extra=dev ;; esac
if ! is_installed; then
  install
elif compiled_is_stale; then
  say "compiling again what changed"
  forget_compiled
  $venv/bin/python setup.py --quiet build_ext --inplace
fi
