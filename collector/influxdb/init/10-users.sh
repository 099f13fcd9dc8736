#!/usr/bin/env bash
# Run once by the image influxdb:2.x, after it has made organisation, bucket and administrator: a
# second bucket for what is kept for ever, a token for the collector and a user for Grafana, each with
# no more rights than it needs. If this fails, the image removes what it has made, and begins anew at
# its next start.
#
# Neither gets the administrator's token, which stays with whoever runs the servers.
set -euo pipefail

bucket=${DOCKER_INFLUXDB_INIT_BUCKET_ID:?is set by the image}
organisation=${DOCKER_INFLUXDB_INIT_ORG:?is set in docker-compose.yml}
database=${DOCKER_INFLUXDB_INIT_BUCKET:?is set in docker-compose.yml}
hourly=${EARSHOT_INFLUXDB_HOURLY_BUCKET:?is set in docker-compose.yml}
administrator=${DOCKER_INFLUXDB_INIT_USERNAME:?is set in docker-compose.yml}
password_file=${EARSHOT_GRAFANA_PASSWORD_FILE:-/etc/earshot/secrets/grafana-password}
token_folder=${EARSHOT_TOKEN_FOLDER:-/var/lib/collector-token}

password=$(cat "$password_file")
[ -n "$password" ] || {
    echo "$password_file is empty: make secrets" >&2
    exit 1
}

hourly_bucket=$(influx bucket create --org "$organisation" --name "$hourly" --retention 0 \
    --hide-headers | cut -f 1)
[ -n "$hourly_bucket" ] || {
    echo "influx bucket create gave no bucket" >&2
    exit 1
}

# The collector reads what it has stored, too, to find its place after it has lost its ledger.
token=$(influx auth create --org "$organisation" --user "$administrator" \
    --read-bucket "$bucket" --write-bucket "$bucket" --write-bucket "$hourly_bucket" \
    --description "collector: reads and writes $database, writes $hourly" --hide-headers | cut -f 3)
[ -n "$token" ] || {
    echo "influx auth create gave no token" >&2
    exit 1
}
# Readable for all: this volume is mounted in two containers, and the other's user is not known here.
# Under another name first, so that a collector never reads half of it.
printf '%s\n' "$token" >"$token_folder/.token"
chmod 0444 "$token_folder/.token"
mv -f "$token_folder/.token" "$token_folder/token"

# Grafana asks in InfluxQL, by the API of InfluxDB 1, which knows databases and users.
influx v1 dbrp create --org "$organisation" --bucket-id "$bucket" \
    --db "$database" --rp autogen --default
influx v1 dbrp create --org "$organisation" --bucket-id "$hourly_bucket" \
    --db "$hourly" --rp autogen --default
influx v1 auth create --org "$organisation" \
    --read-bucket "$bucket" --read-bucket "$hourly_bucket" --username grafana \
    --password "$password" --description "grafana: reads $database and $hourly" >/dev/null
