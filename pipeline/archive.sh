#!/usr/bin/env bash
# Builds the program for a target and packs it as releases have it: llmstd-VERSION-TARGET.tar.gz, with the
# program, its manual pages and completions. Prints the SHA-256.
#
#   bash pipeline/archive.sh x86_64-unknown-linux-musl dist
#
# LLMSTD_PROGRAM  a program that is built already
set -euo pipefail

target=$1
mkdir -p "$2"
out=$(cd "$2" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exe=llmstd
case "$target" in *windows*) exe=llmstd.exe ;; esac
program=${LLMSTD_PROGRAM:-}
if [ -z "$program" ]; then
  if command -v rustup >/dev/null; then rustup target add "$target"; fi
  # TLS has some C that needs no library: the compiler of this machine does where there is none of musl's.
  case "$target" in
    *-musl)
      cc=CC_${target//-/_}
      command -v musl-gcc >/dev/null || export "$cc=${!cc:-cc}"
      ;;
  esac
  cargo build --release --locked --bin llmstd --target "$target"
  program=${CARGO_TARGET_DIR:-target}/$target/release/$exe
fi
case "$target" in
  *linux-musl)
    # A program that asks for an interpreter is not static, and does not run in an empty image.
    if readelf --program-headers "$program" | grep -q INTERP; then
      echo "$program is not static" >&2
      exit 1
    fi
    ;;
esac
version=$("$program" --version | tr -d '\r')
version=${version#llmstd }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp "$program" "$folder/$exe"
cp LICENSE README.md "$folder"
"$program" man "$folder/man"
mkdir "$folder/completions"
for shell in bash zsh fish powershell elvish; do
  "$program" completions "$shell" >"$folder/completions/llmstd.$shell"
done
archive=llmstd-$version-$target.tar.gz
tar -czf "$out/$archive" -C "$folder" "$exe" LICENSE README.md man completions
if command -v sha256sum >/dev/null; then
  (cd "$out" && sha256sum "$archive")
else
  (cd "$out" && shasum -a 256 "$archive")
fi
