#!/bin/sh
# Make the environment that `make book` and `make test` share: environment.sh PYTHON FOLDER
set -eu
python=$1
folder=$2

# The CPU build of PyTorch, a tested version. PyPI's build for Linux brings gigabytes of CUDA that a
# machine without an NVIDIA GPU has no use for.
cpu_torch="torch==2.13.0"
cpu_index="https://download.pytorch.org/whl/cpu"

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "Python 3.10 or newer is needed; choose one with: make PYTHON=python3.12 ..." >&2
    exit 1
}
echo "Making $folder with $("$python" --version); the first time takes a few minutes."
"$python" -m venv "$folder"
"$folder/bin/pip" install --quiet --upgrade pip
if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null 2>&1; then
    # Without its dependencies, which come with requirements.txt. Where the index cannot be reached,
    # pip takes PyPI's build; where there is no such version, requirements.txt says which will do.
    "$folder/bin/pip" install --no-deps --retries 1 --timeout 15 \
        --extra-index-url "$cpu_index" "$cpu_torch" || echo "Going on with PyPI's PyTorch." >&2
fi
"$folder/bin/pip" install -r requirements.txt
