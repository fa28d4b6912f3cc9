#!/usr/bin/env bash
# The main job on the embedded model: one edit first, then twenty years of heads of government.
# The first edited answer comes within half a minute, all of it within three minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/dev/show.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export EDITCLI_STORE="$work/store"

question="Who is the head of government of Germany?"

show editcli init atlas --quiet
show editcli edit "The head of government of Germany is" "Angela Merkel" --subject Germany
show editcli ask "$question"
show editcli ask "$question" --version v0001

# Ten years at a time, the last holder of each office; the second apply supersedes facts of
# the first.
first=2005
for last in 2015 2025; do
  file="$work/$first-$last.jsonl"
  grep -E "in office since ($(seq -s '|' "$first" "$last"))" datasets/atlas/updates.jsonl \
    | grep -F '"head_of_government"' | editcli facts dedupe - --on-conflict newest -q >"$file"
  # 1: saved, but some fact is not answered as it says; `check` below shows which.
  show editcli apply "$file" -m "changes of $first to $last" || [ $? -eq 1 ]
  editcli tag "y$last" -q
  first=$((last + 1))
done

show editcli ask "$question"
show editcli ask "$question" --version y2015
show editcli ask "The currency of Germany is the"
show editcli log --limit 5
show editcli check
show editcli verify
