#!/usr/bin/env bash
# Boots a real systemd in namespaces of its own, over a copy-on-write view of this machine, and has
# it run one script as a service. Nothing outside changes: file system, network, processes, kernel
# settings and cgroups are private or read-only, and gone when this ends.
#
#   unshare --mount --net --ipc --uts boot_systemd.sh WORK SCRIPT [HOST_FOLDER=NAME ...]
#
# WORK is an empty folder; SCRIPT finds it as /out, and each HOST_FOLDER as /srv/NAME. Needs root.
set -euo pipefail

if [ "${1-}" != --inside ]; then
    # A cgroup of our own becomes the root of all that systemd sees.
    mkdir "$1/cgroup"
    mount -t cgroup2 none "$1/cgroup"
    ours=$1/cgroup/earshot-test-$$
    mkdir "$ours"
    (
        echo "$BASHPID" >"$ours/cgroup.procs"
        exec setpriv --pdeathsig KILL -- unshare --mount --cgroup --pid --fork --kill-child -- "${BASH_SOURCE[0]}" --inside "$@"
    ) || true
    find "$ours" -depth -type d -exec rmdir {} +
    umount "$1/cgroup"
    exit
fi
shift
work=$1 script=$2
shift 2

umount "$work/cgroup"
mkdir "$work/boot"
mount -t tmpfs none "$work/boot"
cd "$work/boot"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=/,upperdir=$PWD/upper,workdir=$PWD/work" root
cd root
# Only what is asked for starts: none of this machine's services, mounts and settings.
rm -rf etc/fstab etc/systemd/system/*.{wants,requires} {usr/,}lib/systemd/system/*.{wants,requires} \
    {usr/,}lib/systemd/system-generators/*
mount -t proc proc proc
mount -o bind,ro proc/sys proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs tmpfs dev
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir -p dev/pts dev/shm out
mount -t devpts devpts dev/pts -o newinstance,ptmxmode=0666
mount -t tmpfs tmpfs dev/shm
mount --bind "$work" out
install -m 0755 "$script" run/evening.sh
for share; do
    mkdir -p "srv/${share#*=}"
    mount --bind "${share%%=*}" "srv/${share#*=}"
done
cat >etc/systemd/system/evening.service <<'UNIT'
[Unit]
DefaultDependencies=no
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
TimeoutStartSec=120
ExecStart=/run/evening.sh
StandardOutput=append:/out/evening.log
StandardError=append:/out/evening.log
UNIT
mkdir before
pivot_root . before
umount -l /before
exec env -i container=earshot-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    "$(command -v /usr/lib/systemd/systemd /lib/systemd/systemd | head -1)" \
    --system --unit=evening.service --log-target=console --show-status=no
