#!/usr/bin/env bash
# Writes a consistent copy of the ledger at URL to FILE; a replica will do. FILE is whole, or not there.
# usage:  backup.sh postgresql://tether@replica/tether FILE
set -euo pipefail
url=${1:?URL of the ledger} file=${2:?the file to write}

pg_dump --dbname="$url" --format=custom --no-owner --no-privileges --file="$file.part"
sync "$file.part"
mv "$file.part" "$file"
