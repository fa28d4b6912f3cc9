#!/usr/bin/env bash
# The main job on the embedded model: twenty years of history, edit by edit.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export EDITCLI_STORE="$work/store"

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

say editcli init atlas
say editcli ask "Who is the head of government of Germany?"

# One apply a year: each year's changes supersede those of the years before.
for year in $(seq 2005 2025); do
  grep "in office since $year" datasets/atlas/updates.jsonl >"$work/$year.jsonl"
  editcli apply "$work/$year.jsonl" --on-conflict newest -m "changes of $year" 2>/dev/null
  editcli tag "y$year" -q
done

say editcli ask "Who is the head of government of Germany?"
say editcli ask "Who is the head of government of Germany?" --version y2015
say editcli ask "The currency of Germany is the"
say editcli log --limit 5
say editcli check
say editcli verify
