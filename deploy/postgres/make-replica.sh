#!/usr/bin/env bash
# Makes DATA_DIR a streaming replica of the primary at URL, with a replication slot of its own; start it with `pg_ctl start`.
# usage, as the user that PostgreSQL runs as:  make-replica.sh postgresql://replicator@primary/postgres DATA_DIR [SLOT]
set -euo pipefail
url=${1:?URL of the primary} data_dir=${2:?the data directory to make} slot=${3:-tether_$(date +%s)_$$}

[[ ! -e $data_dir || -z $(ls -A "$data_dir") ]] || { echo "$data_dir is not empty" >&2; exit 1; }
pg_basebackup --dbname="$url" --pgdata="$data_dir" --write-recovery-conf --wal-method=stream \
    --create-slot --slot="$slot" --checkpoint=fast
echo "made $data_dir, which follows through slot $slot"
