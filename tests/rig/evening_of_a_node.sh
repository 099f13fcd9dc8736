#!/usr/bin/env bash
# What happens to a node under systemd in one evening, each outcome in a file below /out. Run by
# tests/rig/boot_systemd.sh; told by tests/test_systemd_unit.py.

# shellcheck disable=SC2317  # await calls what it is given
set -uxo pipefail
unit=earshot-node
system=/run/systemd/system

property() {
    systemctl show -P "$1" "$unit"
}

# A command that is to hold within 40 s.
await() {
    for _ in $(seq 400); do
        "$@" && return
        sleep 0.1
    done
    return 1
}

restarted() {
    [ "$(property NRestarts)" -ge "$1" ] && [ "$(property ActiveState)" = active ]
}

mosquitto --daemon -p 1883
# Somebody takes the windows: a node that is stopped while it holds some has not ended in good order.
until mosquitto_sub -t 'earshot/#' >/dev/null; do sleep 0.1; done &
/srv/earshot/node/install-pi.sh --site-packages /srv/site-packages --python /usr/bin/python3
echo $? >/out/installed
install -o earshot -g earshot -m 0600 /out/node.toml /etc/earshot/node.toml
install -o root -g earshot -m 0640 /out/release-keys.pem /etc/earshot/release-keys.pem

# The unit as it is, but for the patience and a place for its words.
mkdir -p $system/$unit.service.d
cat >$system/$unit.service.d/quick.conf <<'UNIT'
[Service]
WatchdogSec=6
RestartSec=0.1
TimeoutAbortSec=1
StandardError=append:/out/node.log
UNIT
systemctl daemon-reload
systemctl start $unit
echo $? >/out/started
property StatusText >/out/status
systemctl status $unit >/out/status.log

# Longer than the watchdog's patience: whoever is alive is left alone.
sleep 7
property NRestarts >/out/restarts-of-a-healthy-node

# A node that hangs.
kill -STOP "$(property MainPID)"
await restarted 1
echo $? >/out/restarted-after-hanging

# A node that dies.
kill -KILL "$(property MainPID)"
await restarted 2
echo $? >/out/restarted-after-dying

# What a program sees in the node's place.
install -m 0644 /out/view.py /srv/view.py
echo "of group audio" >/srv/sound-card
chgrp audio /srv/sound-card
chmod 0640 /srv/sound-card
sed -e 's#^ExecStart=.*#ExecStart=/opt/earshot/current/venv/bin/python /srv/view.py#' \
    -e 's/^Type=.*/Type=oneshot/' -e '/^Restart/d' -e '/^WatchdogSec/d' \
    /etc/systemd/system/$unit.service >$system/view.service
mkdir $system/view.service.d
printf '[Service]\nStandardOutput=truncate:/out/view.json\nStandardError=append:/out/view.log\n' \
    >$system/view.service.d/out.conf
systemctl daemon-reload
systemctl start view

await restarted 2
systemctl stop $unit
property Result >/out/stopped
exit 0
