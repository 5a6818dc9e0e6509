#!/bin/sh
# backup.sh DATA BACKUPS: today's backup, made once, whichever machine gets to it first. Runs under `redlock run`.
#
# The lock keeps two machines from working on it at the same time. It can't know that the work is done already: that is
# looked up here, inside the lock. And a machine that was frozen may wake up late: `ln` never replaces what is there.
set -eu

data=$1
backups=$2
today=$backups/$(date +%F).tar
# Larger for each later holder of the lock, so no two ever write the same file.
part=$backups/$REDLOCK_FENCE.part

if [ -e "$today" ]; then
    echo "$today is there already"
    exit 0
fi
trap 'rm -f "$part"' EXIT
tar -cf "$part" -C "$data" .
ln "$part" "$today"
echo "$today is made"
