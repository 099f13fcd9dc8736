#!/usr/bin/env bash
# Installs the node as a service on a 64-bit Raspberry Pi OS (Bookworm, Trixie) or another Debian.
#
#   sudo node/install-pi.sh              install; again: upgrade, and mend what was changed
#   node/install-pi.sh --dry-run         print each step instead of taking it
#   node/install-pi.sh --root DIR        install below DIR, for an image or a test: no apt, no
#                                        user, no systemctl, and no need to be root; the packages
#                                        are those for this machine's architecture
#   sudo node/install-pi.sh --uninstall  remove all but settings and state
#                                        (--purge: those and the user, too)
#   --python PROGRAM                     Python 3.11 to 3.13 to build with; otherwise python3
#   --site-packages DIR                  use the packages in DIR instead of installing from
#                                        requirements/node.txt, where there is no package index
#
# What goes where:
#   /opt/earshot/venv-*      Python packages, hashes checked; made anew when the lock changes
#   /opt/earshot/code-*      the node's code and the models that come with it
#   /opt/earshot/current     link to the code in use; moved last, so a failed upgrade changes nothing
#   /usr/local/bin/earshot, /usr/local/bin/earshot-node (`earshot node`),
#   /etc/systemd/system/earshot-node.service
#   /etc/earshot             settings and keys, /var/lib/earshot  what the node has learnt, and
#                            releases that it took; both belong to the user earshot

# shellcheck disable=SC2317  # some functions are called through run alone
set -euo pipefail
umask 022

source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
unit=earshot-node.service
packages=(python3-venv libportaudio2)
# Folders that are closed to the service, by their permissions or by the unit (ProtectHome,
# PrivateTmp): nothing that it needs may lie there.
closed_folders='^/(root|home|run/user|tmp|var/tmp)/'
# All that a node could ever import, however late, without needing a sound card or PortAudio.
self_check='import importlib, pkgutil
from pathlib import Path
import contract, node
names = ["earshot"]
for package in contract, node:
    names += [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    try: importlib.import_module(name)
    except SystemExit as error: raise ImportError(f"{name} ended Python: {error!r}")
from node.scoring.runtime import LoadedModel, find_runtime
for model in Path("models").glob("*/*.tflite"): LoadedModel(model.read_bytes(), find_runtime())'
root='' python=python3 site_packages='' dry_run=no action=install purge=no

fail() {
    echo "install-pi: $*" >&2
    exit 2
}

# Every change goes through here, so that --dry-run can print it.
run() {
    if [ "$dry_run" = yes ] && [ "$(type -t "$1")" = function ]; then
        echo "# $("describe_$1" "${@:2}")"
    elif [ "$dry_run" = yes ]; then
        printf '%q ' "$@" | sed 's/ $//'
        echo
    else
        "$@"
    fi
}

main() {
    while [ $# -gt 0 ]; do
        case $1 in
            --dry-run) dry_run=yes ;;
            --uninstall) action=uninstall ;;
            --purge) purge=yes ;;
            --root | --python | --site-packages)
                [ $# -ge 2 ] || fail "$1 needs a value"
                case $1 in
                    --root) root=$(realpath -m "$2") ;;
                    --python) python=$2 ;;
                    *) site_packages=$(realpath -m "$2") ;;
                esac
                shift
                ;;
            -h | --help)
                sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
                exit 0
                ;;
            *) fail "unknown option $1; --help lists them" ;;
        esac
        shift
    done
    [ "$purge" = no ] || [ "$action" = uninstall ] || fail "--purge goes with --uninstall"
    [ "$(id -u)" = 0 ] || [ "$dry_run" = yes ] || [ -n "$root" ] ||
        fail "installing needs root: sudo $0 (or --dry-run, or --root DIR)"
    opt=$root/opt/earshot
    if [ "$action" = install ]; then install_node; else uninstall_node; fi
}

install_node() {
    check_machine
    if [ -n "$root" ]; then
        echo "Installing below $root for $(uname -m), as this machine is; for another architecture" \
            "run this on the Pi itself"
    else
        install_debian_packages
    fi
    check_python
    [ -n "$root" ] || make_user
    make_folders
    make_environment
    copy_code
    switch
    [ -n "$root" ] || start
}

check_machine() {
    [ "$(uname -s)" = Linux ] || fail "expected Linux, got $(uname -s)"
    # The words of programs, not of the kernel: a 32-bit Raspberry Pi OS has a 64-bit kernel.
    [ "$(getconf LONG_BIT)" = 64 ] ||
        fail "expected a 64-bit system, got a 32-bit one: write Raspberry Pi OS (64-bit) to the card" \
            "(or, best effort, Python 3.11 with requirements/node-tflite.txt by hand: docs/pi.md)"
}

install_debian_packages() {
    local package missing=()
    for package in "${packages[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    run apt-get update -qq
    run env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

check_python() {
    # In --dry-run the package that brings it may not be there yet.
    command -v "$python" >/dev/null || [ "$dry_run" = yes ] || fail "no program $python; install python3"
    local answer closed
    answer=$("$python" -c 'import os, sys
print("%d.%d" % sys.version_info[:2])
for path in sys.executable, sys.base_prefix: print(os.path.realpath(path) + "/")' 2>/dev/null || echo none)
    python_version=${answer%%$'\n'*}
    case $python_version in
        3.11 | 3.12 | 3.13) ;;
        *) fail "expected Python 3.11, 3.12 or 3.13, got $python_version from $python: use" \
            "Raspberry Pi OS Bookworm or Trixie, or --python PROGRAM" ;;
    esac
    [ -z "$root" ] || return 0
    closed=$(grep -Em 1 "$closed_folders" <<<"$answer"$'\n'"$site_packages/" || true)
    [ -z "$closed" ] || fail "expected Python and packages where the service may read them, got" \
        "${closed%/}: use the system's (--python /usr/bin/python3), none in a home or temporary folder"
}

make_user() {
    if id earshot >/dev/null 2>&1; then
        run usermod --append --groups audio earshot
    else
        run useradd --system --user-group --groups audio --home-dir /var/lib/earshot \
            --no-create-home --shell /usr/sbin/nologin earshot
    fi
}

make_folders() {
    local owner=(-o earshot -g earshot)
    [ -z "$root" ] || owner=()
    run mkdir -p "$opt" "$root/usr/local/bin" "$root/etc/systemd/system"
    # `earshot node init` writes settings as the user of the service, who cannot change them while
    # it runs: the unit makes /etc read-only.
    run install -d -m 0750 "${owner[@]}" "$root/etc/earshot" "$root/var/lib/earshot"
}

make_environment() {
    local lock=$source/requirements/node.txt
    # Whatever the environment is made of is in its name: the same name is the same environment.
    venv=$opt/venv-$python_version-$({ cat "$lock" && echo "$python $site_packages"; } | digest)
    [ ! -e "$venv/.complete" ] || return 0
    echo "Making $venv (some minutes on a Pi)"
    run rm -rf "$venv"
    if [ -n "$site_packages" ]; then
        run "$python" -m venv --without-pip "$venv"
        run write "$venv/lib/python$python_version/site-packages/packages.pth" "$site_packages"
    else
        run "$python" -m venv "$venv"
        run "$venv/bin/python" -m pip --disable-pip-version-check --no-input install --quiet --no-cache-dir \
            --require-hashes --only-binary=:all: -r "$lock"
        run drop_what_a_node_never_loads "$venv/lib/python$python_version/site-packages"
    fi
    # From code-*/venv/lib/python*/site-packages up to the code: it is found from any folder, also by
    # the capture process.
    run write "$venv/lib/python$python_version/site-packages/earshot.pth" ../../../..
    run touch "$venv/.complete"
}

describe_drop_what_a_node_never_loads() {
    echo "remove the GPU's accelerator, pip, setuptools and NumPy's tests from $1"
}

# 56 MB of 166 on x86: the GPU's accelerator (a node runs on the CPU's XNNPACK), NumPy's tests, and
# the installers that have done their work.
drop_what_a_node_never_loads() {
    rm -rf "$1"/ai_edge_litert/libLiteRtWebGpuAccelerator.so \
        "$1"/{pip,setuptools,pkg_resources,_distutils_hack,distutils-precedence.pth} \
        "$1"/{pip,setuptools}-*.dist-info
    find "$1/numpy" -type d -name tests -prune -exec rm -rf {} +
}

copy_code() {
    local new version
    version=$(sed -n 's/^VERSION = "\(.*\)"$/\1/p' "$source/contract/__init__.py")
    code=$opt/code-$version-$({ tar_code | digest && basename "$venv"; } | digest)
    [ ! -d "$code" ] || return 0
    new=$opt/.new
    run rm -rf "$new"
    run mkdir "$new"
    run unpack_code "$new"
    run ln -s "../$(basename "$venv")" "$new/venv"
    # Later the service may not write there.
    run "$venv/bin/python" -m compileall -q "$new/contract" "$new/node" "$new/earshot.py"
    # What does not start never becomes current.
    run try_code "$new" || fail "the new version does not start (the lines above say why):" \
        "nothing was switched, what was installed before goes on"
    run mv "$new" "$code"
}

# The same bytes give the same archive, whenever and by whomever they were checked out.
tar_code() {
    tar -C "$source" --exclude=__pycache__ --exclude='models/*/variants' --sort=name --mtime=@0 \
        --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX -cf - \
        contract node models earshot.py LICENSE docs/pi.md docs/updates.md docs/notice.html
}

describe_try_code() {
    echo "in $1, as the service would: import all modules, load all models, run earshot node --help"
}

# As the user of the service, who may not see all that root sees, and the way the unit starts it.
try_code() {
    local as_service=()
    [ -n "$root" ] || as_service=(setpriv --reuid=earshot --regid=earshot --clear-groups)
    as_service+=(env -C "$1" PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 "$1/venv/bin/python")
    "${as_service[@]}" -c "$self_check" &&
        "${as_service[@]}" -m earshot node --help >/dev/null &&
        "${as_service[@]}" -m node run --help >/dev/null
}

describe_unpack_code() {
    echo "copy contract, node, models, earshot.py, LICENSE and the documents for the Pi to $1"
}

unpack_code() {
    tar_code | tar -C "$1" --no-same-owner -xf -
}

switch() {
    local before keep folder
    before=$(readlink "$opt/current" || true)
    if [ -n "$before" ] && [ "$before" != "$(basename "$code")" ]; then
        # One version back stays, to return to by hand.
        run ln -sfn "$before" "$opt/previous"
    fi
    run ln -sfn "$(basename "$code")" "$opt/.current"
    run mv -T "$opt/.current" "$opt/current"
    run write_launchers "$root/usr/local/bin"
    run install -m 0644 "$source/node/systemd/$unit" "$root/etc/systemd/system/$unit"
    keep=$(realpath -m "$opt"/{current,previous}{,/venv})
    for folder in "$opt"/code-* "$opt"/venv-*; do
        if [ -e "$folder" ] && ! grep -qxF "$(realpath "$folder")" <<<"$keep"; then
            run rm -rf "$folder"
        fi
    done
    [ "$dry_run" = yes ] || echo "Installed $(basename "$code") in $opt"
}

describe_write_launchers() {
    echo "write $1/earshot and $1/earshot-node, which start the programs of $opt/current"
}

write_launchers() {
    write "$1/earshot" '#!/opt/earshot/current/venv/bin/python -P
# For people: sudo -u earshot earshot node check
import os, sys

# The folder of whoever types that may be closed to the user earshot.
if not os.access(".", os.X_OK):
    os.chdir("/var/lib/earshot")
# The capture process and others that this one starts must not import from that folder either.
os.environ["PYTHONSAFEPATH"] = "1"

from earshot import main

sys.exit(main())'
    write "$1/earshot-node" '#!/bin/sh
exec /usr/local/bin/earshot node "$@"'
    chmod 0755 "$1/earshot" "$1/earshot-node"
}

start() {
    run systemctl daemon-reload
    if [ -e /etc/earshot/node.toml ]; then
        run systemctl enable --quiet "$unit"
        run systemctl restart --no-block "$unit"
        [ "$dry_run" = yes ] || echo "Started; systemctl status earshot-node tells what it does"
    else
        echo "Next:
  sudo -u earshot earshot node init --out /etc/earshot/node.toml \\
      --model $opt/current/models/fan-synthetic --state-folder /var/lib/earshot/state
  sudo systemctl enable --now $unit"
    fi
    grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null ||
        echo "This kernel counts no memory, so the unit's memory limit is not in force: see docs/pi.md"
}

uninstall_node() {
    local user_stays=no
    if [ -z "$root" ]; then
        run systemctl disable --quiet --now "$unit" || true
    fi
    run rm -rf "$opt" "$root"/usr/local/bin/earshot{,-node} "$root/etc/systemd/system/$unit"
    if [ "$purge" = yes ]; then
        run rm -rf "$root/etc/earshot" "$root/var/lib/earshot"
        [ -n "$root" ] || ! id earshot >/dev/null 2>&1 || run userdel earshot || user_stays=yes
    fi
    [ -n "$root" ] || run systemctl daemon-reload
    [ "$purge" = yes ] || echo "Kept: $root/etc/earshot, $root/var/lib/earshot"
    [ "$user_stays" = no ] ||
        fail "removed all but the user earshot; end its programs (pgrep -lu earshot), then: sudo userdel earshot"
}

describe_write() {
    echo "write $1: $2"
}

write() {
    printf '%s\n' "$2" >"$1.new" && mv "$1.new" "$1"
}

digest() {
    sha256sum | cut -c 1-12
}

# All of it is read before any of it runs: an upgrade may replace this file.
main "$@"
exit
