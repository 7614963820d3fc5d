#!/usr/bin/env bash
# Runs llmstd once, and writes what it found in every form that a workflow shows: annotations on the
# standard output, the summary of the step, and SARIF. Its own status is 0; `status` has that of llmstd.
#
# LLMSTD_COMMAND  validate or diff
# LLMSTD_PATHS    the inputs, separated by spaces or lines
# LLMSTD_ARGS     more arguments, separated by spaces or lines
set -uo pipefail

# Words are split at spaces and ends of lines, and no word is a pattern.
set -f
IFS=$' \t\n' read -r -d '' -a paths <<<"${LLMSTD_PATHS:-.}" || true
IFS=$' \t\n' read -r -d '' -a more <<<"${LLMSTD_ARGS:-}" || true
command=${LLMSTD_COMMAND:-validate}
case "$command" in
  validate) set -- validate -r ;;
  diff) set -- diff ;;
  *)
    echo "::error::command is $command: validate or diff"
    exit 2
    ;;
esac
folder=$(mktemp -d "${RUNNER_TEMP:-${TMPDIR:-/tmp}}/llmstd.XXXXXX")
llmstd "$@" "${more[@]+"${more[@]}"}" --format github \
  --report "sarif=$folder/llmstd.sarif" --report "markdown=$folder/llmstd.md" -- "${paths[@]}"
status=$?
if [ -n "${GITHUB_STEP_SUMMARY:-}" ] && [ -s "$folder/llmstd.md" ]; then
  # A summary may have 1 MiB.
  head -c 1000000 "$folder/llmstd.md" >>"$GITHUB_STEP_SUMMARY"
fi
if [ -n "${GITHUB_OUTPUT:-}" ]; then
  echo "status=$status" >>"$GITHUB_OUTPUT"
  if [ -s "$folder/llmstd.sarif" ]; then echo "sarif=$folder/llmstd.sarif" >>"$GITHUB_OUTPUT"; fi
fi
exit 0
