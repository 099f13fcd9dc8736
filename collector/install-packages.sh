#!/bin/sh
# Installs the packages of a lock into a new virtual environment, for an image:
#
#     collector/install-packages.sh LOCK FOLDER
#
# Wheels only, and only those whose hashes are in the lock: nothing is compiled. Without pip, which
# nothing in an image would use.
set -eu

python3 -m venv --without-pip "$2"
python3 -m pip --python "$2/bin/python" install --quiet --no-cache-dir --disable-pip-version-check \
    --no-input --require-hashes --only-binary :all: -r "$1"
