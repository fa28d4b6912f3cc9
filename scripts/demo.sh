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

# Four applies of five years each; every one supersedes what earlier ones said of an office.
for last in 2010 2015 2020 2025; do
  printf '\n'
  for year in $(seq $((last - 5)) "$last"); do
    grep "in office since $year" datasets/atlas/updates.jsonl
  done | grep -v "in office since $((last - 5))" >"$work/until-$last.jsonl" || true
  [ "$last" = 2010 ] && grep "in office since 2005" datasets/atlas/updates.jsonl >>"$work/until-$last.jsonl"
  say editcli apply "$work/until-$last.jsonl" --on-conflict newest -m "changes until $last" -q
  editcli tag "y$last" -q
done

say editcli ask "Who is the head of government of Germany?"
say editcli ask "Who is the head of government of Germany?" --version y2015
say editcli ask "The currency of Germany is the"
say editcli log --limit 5
say editcli check
say editcli verify
