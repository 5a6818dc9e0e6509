#!/bin/sh
# backup.sh DATA BACKUPS: makes today's backup once, on the first machine that holds the lock. Runs under `redlock run`.
#
# The lock keeps two machines from working at the same time. This script checks, inside the lock, that the backup does
# not exist yet. A frozen machine may wake up late, so `ln` never replaces an existing backup.
set -eu

data=$1
backups=$2
today=$backups/$(date +%F).tar
# The token is larger for each later holder, so no two holders write the same file.
part=$backups/$REDLOCK_FENCE.part

if [ -e "$today" ]; then
    echo "$today exists already"
    exit 0
fi
trap 'rm -f "$part"' EXIT
# In dash a signal ends the script without the trap above, unless the signal has a trap of its own.
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
tar -cf "$part" -C "$data" .
ln "$part" "$today"
echo "made $today"
