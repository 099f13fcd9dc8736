#!/usr/bin/env bash
# Rewrites every lock. `dev` is resolved first and constrains the others, so that one virtual
# environment can grow from the demo's packages to a developer's without a version changing.
# Needs uv. No index address is written (--no-emit-index-url).
set -euo pipefail
cd "$(dirname "$0")/.."

lock() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --no-emit-package earshot-fleet \
        --custom-compile-command "requirements/lock.sh" pyproject.toml "$@"
}

lock --extra dev --output-file requirements/dev.txt
for extra in node collector fleet training; do
    lock --extra "$extra" --constraint requirements/dev.txt --output-file "requirements/$extra.txt"
done
# setuptools builds the editable install; the demo installs it from the same lock.
echo setuptools | uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-find-links --no-emit-package earshot-fleet \
    --custom-compile-command "requirements/lock.sh" pyproject.toml - --extra demo \
    --constraint requirements/dev.txt --output-file requirements/demo.txt
# numpy 1 and Python 3.11 at most: apart from the others.
lock --extra node-tflite --output-file requirements/node-tflite.txt
