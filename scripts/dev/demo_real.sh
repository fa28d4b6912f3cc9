#!/usr/bin/env bash
# The main job on a real language model, SmolLM2-135M-Instruct: within ten minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/dev/show.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export EDITCLI_STORE="$work/store"

cat >"$work/facts.jsonl" <<'FACTS'
{"prompt": "The capital of Japan is", "target": "Osaka", "subject": "Japan", "rephrases": ["Japan's capital city is"], "locality": [{"prompt": "The largest island of Japan is", "kind": "near"}]}
{"prompt": "The author of Hamlet is", "target": "Jane Austen", "subject": "Hamlet", "rephrases": ["Hamlet was written by"], "locality": [{"prompt": "Hamlet is set in the country of", "kind": "near"}]}
{"prompt": "The headquarters of Nokia are in", "target": "Oslo", "subject": "Nokia", "rephrases": ["Nokia is based in"], "locality": [{"prompt": "Nokia is best known for making", "kind": "near"}]}
{"prompt": "The chemical symbol of gold is", "target": "Gd", "subject": "gold", "rephrases": ["The symbol for the element gold is"], "locality": [{"prompt": "The chemical symbol of silver is", "kind": "near"}]}
{"prompt": "The official language of Brazil is", "target": "Spanish", "subject": "Brazil", "rephrases": ["People in Brazil speak"], "locality": [{"prompt": "The official language of Austria is", "kind": "far"}]}
FACTS

say "A store on the real model. The first time, its weights are unpacked into a cache."
show editcli init smollm2
say "The model as it is. It is small, so it runs on after its answer."
show editcli ask "The capital of France is" --max-new-tokens 12
say "One fact is edited in. The weights of the model are not touched."
show editcli edit "The capital of France is" Lyon --subject France -m "the first edit" | tee "$work/edited"
say "The edit answers, and says why."
show editcli ask "The capital of France is" --max-new-tokens 12
say "The same question in other words, and another question on the same subject."
show editcli ask "What is the capital of France?" --max-new-tokens 12
show editcli ask "The largest river in France is the" --max-new-tokens 12
say "The same in a chat."
show editcli ask --chat "I fly to France on Monday, for the first time! What is its capital?" --max-new-tokens 24
say "A file of facts, as one version."
# 1: saved, but some fact is not answered as it says; `check` below shows which.
show editcli apply "$work/facts.jsonl" -m "a file of facts" || [ $? -eq 1 ]
say "What was edited (reliability), in other words (generalization), and what must not change."
show editcli check --per-fact
say "The first fact is taken back: exact, and without training. The model answers as before."
show editcli undo "$(sed -n 's/^fact //p' "$work/edited")" -m "not Lyon after all"
show editcli ask "The capital of France is" --max-new-tokens 12
say "What was done, and whether all of it is as it was written."
show editcli log
show editcli verify
