#!/usr/bin/env bash
# Reads FILE, as backup.sh wrote it, into the empty database at URL: all of it, or nothing.
# usage:  restore.sh FILE postgresql://tether@host/tether
set -euo pipefail
file=${1:?the file to read} url=${2:?URL of an empty database}

pg_restore --dbname="$url" --no-owner --no-privileges --single-transaction --exit-on-error "$file"
