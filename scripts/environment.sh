# Sourced by ./demo, ./test and .ci/run: finds Python, makes .venv and installs what is asked for.
# Copyright The Pillion Authors
# SPDX-License-Identifier: Apache-2.0

say() { printf '\033[1;36m==>\033[0m %s\n' "$*" >&2; }
fail() { printf '\033[1;31mstopped:\033[0m %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then sudo -n "$@"
  else return 1; fi
}

# debian PACKAGE... : install Debian packages that are missing; returns 1 where that is not possible.
debian() {
  command -v apt-get >/dev/null 2>&1 || return 1
  missing=""
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
  done
  [ -z "$missing" ] && return 0
  say "installing Debian packages:$missing"
  as_root apt-get update -qq >/dev/null 2>&1
  # shellcheck disable=SC2086
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null 2>&1
}

find_python() {
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "Python 3.11 or newer is needed; set PYTHON to its path"
}

# environment REQUIREMENT... : make .venv and install this project with the given pip arguments, once per change.
environment() {
  python=$(find_python)
  if [ ! -x .venv/bin/python ]; then
    say "making .venv with $("$python" --version)"
    "$python" -m venv .venv 2>/dev/null || { debian python3-venv && rm -rf .venv && "$python" -m venv .venv; } ||
      fail "cannot make a virtual environment; install python3-venv"
  fi
  stamp=".venv/.installed-$(printf '%s ' "$@" | cat - pyproject.toml | cksum | cut -d' ' -f1)"
  if [ ! -e "$stamp" ]; then
    say "installing Pillion: $*"
    .venv/bin/python -m pip install -q --disable-pip-version-check --upgrade 'pip>=25.1' || fail "pip could not be updated"
    .venv/bin/python -m pip install -q --disable-pip-version-check "$@" || fail "pip install failed"
    touch "$stamp"
  fi
}
