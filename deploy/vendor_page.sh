#!/usr/bin/env bash
# Fetches what others wrote for the page into server/playground/page/vendor, by pinned versions, with their licences.
# Needs npm and tar. The page needs no build: these are the packages' own files for browsers, as they come.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly target=server/playground/page/vendor
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A UMD script takes what it is handed as `exports`; around it that makes a module.
wrap_umd() {
    local script=$1
    { printf 'const module = { exports: {} };\nconst exports = module.exports;\n' && cat "$script" &&
        printf '\nexport default module.exports;\n'; } >"$script.module"
    mv "$script.module" "$script"
}

# fetch PACKAGE@VERSION FILE_IN_IT NAME_HERE LICENCE_IN_IT
fetch() {
    local package=$1 file=$2 name=$3 licence=$4 archive folder
    archive=$(cd "$work" && npm pack --silent "$package")
    folder=$work/${archive%.tgz}
    mkdir -p "$folder"
    tar -xzf "$work/$archive" -C "$folder" --strip-components=1
    # A source map is not served, so nothing may point to one.
    sed '/^\/\/# sourceMappingURL=/d' "$folder/$file" >"$target/$name"
    # A script that names itself, for pages that load it as one, becomes a module.
    case $name in
        uPlot.js) printf 'export default uPlot;\n' >>"$target/$name" ;;
        purify.js) wrap_umd "$target/$name" ;;
    esac
    cp "$folder/$licence" "$target/LICENSE-${name%%.*}.txt"
    printf '%s %s\n' "$name" "$package" >>"$target/VERSIONS.txt"
}

mkdir -p "$target"
rm -f "$target"/*
fetch htm@3.1.1 preact/standalone.module.js preact.js LICENSE
fetch marked@18.0.7 lib/marked.esm.js marked.js LICENSE
fetch dompurify@3.4.1 dist/purify.min.js purify.js LICENSE
fetch uplot@1.6.32 dist/uPlot.iife.min.js uPlot.js LICENSE
fetch uplot@1.6.32 dist/uPlot.min.css uPlot.min.css LICENSE
