#!/usr/bin/env bash
# Makes .venv with Tether, everything it needs, and llama.cpp compiled for this machine. `make` calls it before
# every target; it returns at once when there is nothing to do, and starts over where an earlier run was cut off.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly report_every_s=5
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off

main() {
    if command -v flock >/dev/null; then
        exec 9<deploy/setup.sh && flock 9 # two makes at once: the second waits, then finds all done
    fi
    local wanted
    wanted=$(fingerprint)
    venv_is_whole && [[ $(<.venv/ready) == "$wanted" ]] && return

    local python
    python=$(find_python)
    install_system_packages "$python"
    if ! venv_is_whole; then
        say "making .venv with $("$python" --version)"
        "$python" -m venv --clear .venv
    fi
    : >.venv/setup.log
    build_llama_cpp
    say "packages: fetching and installing what pyproject.toml names"
    watched "packages" .venv/bin/pip install --editable '.[dev]'
    # libp2p brings trio-typing, whose stubs of trio 0.22 would hide trio's own types from mypy.
    rm -rf .venv/lib/python3*/site-packages/trio-stubs
    echo "$wanted" >.venv/ready
    say "ready after $SECONDS s: .venv/bin/tetherd, .venv/bin/tetherctl"
}

# What the set-up depends on; the folder too, because an editable install points into it.
fingerprint() {
    { pwd && cat pyproject.toml deploy/setup.sh deploy/llama.cmake; } | cksum
}

# .venv/ready is written last, so that a venv without it is half made; its python goes when the system's does.
venv_is_whole() {
    [[ -f .venv/ready ]] && .venv/bin/python -c '' 2>/dev/null
}

find_python() {
    local name
    for name in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    fail "Tether needs Python 3.11, 3.12 or 3.13, and found none. Install one (Debian 12: apt-get install python3)" \
        "or name it: make setup PYTHON=/path/to/python3"
}

# cmake and ninja are not here: where they are missing, pip fetches them for the one build that needs them.
install_system_packages() {
    local python=$1 version packages=()
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    "$python" -c 'import ensurepip, venv' 2>/dev/null || packages+=("$version-venv")
    has_header "$python" Python.h || packages+=("$version-dev")
    command -v gcc >/dev/null || packages+=(gcc libc6-dev)
    command -v g++ >/dev/null || packages+=(g++)
    has_header "$python" gmp.h || packages+=(libgmp-dev) # libp2p's fastecdsa compiles against it
    # The tests of NAT make network namespaces, which needs root; without it, or without these, they skip and say so.
    if ((EUID == 0)) && command -v apt-get >/dev/null; then
        command -v ip >/dev/null || packages+=(iproute2)
        command -v nft >/dev/null || packages+=(nftables)
        # The ledger's tests start servers of their own. redis-tools holds the whole of redis-server, without a service.
        compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null || packages+=(postgresql)
        command -v redis-check-rdb >/dev/null || packages+=(redis-tools)
        command -v miniupnpd >/dev/null || packages+=(miniupnpd-nftables)
    fi
    ((${#packages[@]})) || return 0

    if ! command -v apt-get >/dev/null; then
        fail "this machine lacks what Debian calls: ${packages[*]}." \
            "Install them with its own package manager, then run make again."
    elif ((EUID != 0)); then
        fail "this machine lacks ${packages[*]}. Run: sudo apt-get install ${packages[*]}  and then make again."
    fi
    say "system packages: installing ${packages[*]}"
    apt-get update -qq
    [[ " ${packages[*]} " == *" postgresql "* ]] && without_a_cluster
    apt_install "${packages[@]}"
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null ||
        fail "apt-get could not install $*: see its message above."
}

# Debian's PostgreSQL makes a cluster and starts it when it is installed. This machine's owner did not ask for one.
without_a_cluster() {
    local settings=/etc/postgresql-common/createcluster.conf
    apt_install postgresql-common
    [[ -f $settings ]] || return 0
    cp -p "$settings" "$settings.before-tether"
    trap "mv '$settings.before-tether' '$settings'" EXIT
    sed -i -E 's/^#?[[:space:]]*create_main_cluster\b.*/create_main_cluster = false/' "$settings"
}

has_header() {
    local include
    include=$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [[ -f $include/$2 ]] || compgen -G "/usr/include/$2" >/dev/null ||
        compgen -G "/usr/include/*/$2" >/dev/null || compgen -G "/usr/local/include/$2" >/dev/null
}

# Alone and first: the settings are for this package only. pip keeps the wheel, so a second set-up takes seconds.
build_llama_cpp() {
    local requirement
    requirement=$(grep -o 'llama-cpp-python==[0-9.]*' pyproject.toml)
    [[ $'\n'$(.venv/bin/pip list --format=freeze)$'\n' == *$'\n'"${requirement//-/_}"$'\n'* ]] && return
    say "llama.cpp: fetching and compiling its inference library for this machine, about 2 minutes on 2 cores"
    watched "llama.cpp" .venv/bin/pip install --verbose --no-deps "$requirement" \
        --config-settings="cmake.define.CMAKE_PROJECT_llama_cpp_INCLUDE=$PWD/deploy/llama.cmake" \
        --config-settings=ninja.make-fallback=false
}

# watched NAME COMMAND...: runs it into the log and says every few seconds how far it is.
watched() {
    local name=$1
    shift
    if ! "$@" 2>&1 | tee -a .venv/setup.log | follow "$name"; then
        tail -n 25 .venv/setup.log >&2
        fail "$name could not be installed; the whole story is in .venv/setup.log." \
            "Most often the network or the disk is why: run make again once that is mended."
    fi
}

follow() {
    local name=$1 line step="" said_s=$SECONDS status
    local telling='\[[0-9]+/[0-9]+\]|(Collecting|Downloading|Building wheel for|Installing collected) *[A-Za-z0-9._-]*'
    while true; do
        status=0
        IFS= read -r -t "$report_every_s" line || status=$?
        if ((status > 128)); then # silence: one long compile
            line=""
        elif ((status)); then
            return 0
        fi
        [[ $line =~ $telling ]] && step=${BASH_REMATCH[0]}
        if ((SECONDS - said_s >= report_every_s)); then
            say "$name: $step ($SECONDS s)"
            said_s=$SECONDS
        fi
    done
}

say() {
    printf 'setup: %s\n' "$*"
}

fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

main
