#!/usr/bin/env bash
# Makes the replica in DATA_DIR the primary. First see to it that the old primary is stopped and stays so: two primaries are
# two ledgers.
# usage, as the user that PostgreSQL runs as:  promote.sh DATA_DIR
set -euo pipefail
data_dir=${1:?the data directory of the replica}

pg_ctl promote --pgdata="$data_dir" --wait --timeout=60
