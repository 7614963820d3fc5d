#!/usr/bin/env bash
# Installs a pinned llmstd: fetches the archive of this machine, holds it against its SHA-256, and puts
# the program on the PATH of the steps that follow.
#
# LLMSTD_VERSION   0.1.0
# LLMSTD_SHA256    of the archive
# LLMSTD_BASE_URL  what stands before /v0.1.0/llmstd-0.1.0-TARGET.tar.gz
set -euo pipefail

: "${LLMSTD_VERSION:?}" "${LLMSTD_BASE_URL:?}"
if [ -z "${LLMSTD_SHA256:-}" ]; then
  echo "::error::sha256 is not given: without it, whatever the address answers would run"
  exit 2
fi
case "$(uname -s)-$(uname -m)" in
  Linux-x86_64) target=x86_64-unknown-linux-musl ;;
  Linux-aarch64 | Linux-arm64) target=aarch64-unknown-linux-musl ;;
  Darwin-x86_64) target=x86_64-apple-darwin ;;
  Darwin-arm64) target=aarch64-apple-darwin ;;
  MINGW*-x86_64 | MSYS*-x86_64) target=x86_64-pc-windows-msvc ;;
  *)
    echo "::error::there is no llmstd for $(uname -s) on $(uname -m): install it with cargo or pip, and leave version out"
    exit 2
    ;;
esac
folder=${RUNNER_TEMP:-$(mktemp -d)}/llmstd-$LLMSTD_VERSION
# Names without a folder: on Windows a path with backslashes is another thing to each program.
mkdir -p "$folder"
cd "$folder"
archive=llmstd.tar.gz
curl --fail --silent --show-error --location --retry 3 --output "$archive" \
  "$LLMSTD_BASE_URL/v$LLMSTD_VERSION/llmstd-$LLMSTD_VERSION-$target.tar.gz"
if command -v sha256sum >/dev/null; then
  found=$(sha256sum <"$archive" | cut -d' ' -f1)
else
  found=$(shasum -a 256 <"$archive" | cut -d' ' -f1)
fi
if [ "$found" != "$LLMSTD_SHA256" ]; then
  echo "::error::the archive for $target has the SHA-256 $found, and $LLMSTD_SHA256 was expected"
  exit 2
fi
tar -xzf "$archive"
if [ -n "${GITHUB_PATH:-}" ]; then echo "$folder" >>"$GITHUB_PATH"; fi
./llmstd --version
