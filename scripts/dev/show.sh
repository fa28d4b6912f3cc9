# For the demos, which source this file.

# Print a command as one would type it, and run it.
show() {
  local word typed=""
  for word in "$@"; do
    case $word in *' '*) typed+=" \"$word\"" ;; *) typed+=" $word" ;; esac
  done
  printf '\n\033[1m$%s\033[0m\n' "$typed"
  "$@"
}

# Print a line that says what comes next.
say() {
  printf '\n# %s\n' "$*"
}
