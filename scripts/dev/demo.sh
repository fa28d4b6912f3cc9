#!/usr/bin/env bash
# The main job on the embedded model: twenty years of history, edit by edit.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export EDITCLI_STORE="$work/store"

# Print a command as one would type it, and run it.
say() {
  local word typed=""
  for word in "$@"; do
    case $word in *' '*) typed+=" \"$word\"" ;; *) typed+=" $word" ;; esac
  done
  printf '\n\033[1m$%s\033[0m\n' "$typed"
  "$@"
}

say editcli init atlas
say editcli ask "Who is the head of government of Germany?"

# Five years at a time; each apply supersedes what an earlier one said of an office.
first=2005
for last in 2010 2015 2020 2025; do
  file="$work/$first-$last.jsonl"
  grep -E "in office since ($(seq -s '|' "$first" "$last"))" datasets/atlas/updates.jsonl >"$file"
  # 1: saved, but some fact is not answered as it says; `check` below shows which.
  say editcli apply "$file" --on-conflict newest -m "changes of $first to $last" || [ $? -eq 1 ]
  editcli tag "y$last" -q
  first=$((last + 1))
done

say editcli ask "Who is the head of government of Germany?"
say editcli ask "Who is the head of government of Germany?" --version y2015
say editcli ask "The currency of Germany is the"
say editcli log --limit 5
say editcli check
say editcli verify
