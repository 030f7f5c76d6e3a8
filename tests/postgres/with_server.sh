#!/usr/bin/env bash
# Run a command with a PostgreSQL server of its own on loopback; HARNESS_POSTGRES is its URL. Installed from Debian's
# packages where it is missing. PostgreSQL refuses to run as root: root lends it the packages' user.
set -euo pipefail
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1 || true)
if [ -z "$bin" ]; then
  apt-get update -qq >/dev/null && apt-get install -y -qq postgresql >/dev/null
  bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)
fi
folder=$(mktemp -d)
as=""
if [ "$(id -u)" = 0 ]; then as="runuser -u postgres --"; chown postgres "$folder"; fi
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
stop() { (cd / && $as "$bin/pg_ctl" -D "$folder/data" -m immediate stop >/dev/null 2>&1) || true; rm -rf "$folder"; }
trap stop EXIT
(cd / && $as "$bin/initdb" -D "$folder/data" -A trust -U harness >/dev/null)
(cd / && $as "$bin/pg_ctl" -D "$folder/data" -w -l "$folder/log" start >/dev/null \
  -o "-p $port -k $folder -c listen_addresses=127.0.0.1 -c fsync=off")
export HARNESS_POSTGRES="postgresql+psycopg://harness@127.0.0.1:$port"
"$@"
