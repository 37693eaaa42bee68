#!/usr/bin/env bash
# The peers' environments: benchmarks/peers/setup.sh [DIRECTORY]. What cannot be installed is said and left out.
# llama.cpp is compiled for this processor; that takes half an hour on two cores.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${1:-$here/environments}
python=${PYTHON:-$(command -v python3.11 || command -v python3)}
pip=(-m pip --quiet --disable-pip-version-check)
mkdir -p "$target"

make_environment() { # NAME
    test -x "$target/$1/bin/python" || "$python" -m venv "$target/$1"
    "$target/$1/bin/python" "${pip[@]}" install -r "$here/requirements-${1#peers-}.txt" ||
        echo "setup.sh: not everything of $1 could be installed; its systems will be left out" >&2
}

make_environment peers-a
make_environment peers-b

# llama.cpp, with its converter, from the source package of llama-cpp-python.
a=$target/peers-a
if ! "$a/bin/python" -c 'import llama_cpp' 2>/dev/null || test ! -d "$a/llama.cpp"; then
    package=$(sed -n 's/^# compiled: //p' "$here/requirements-a.txt")
    scratch=$(mktemp -d)
    if "$a/bin/python" "${pip[@]}" download --no-deps --no-binary llama-cpp-python -d "$scratch" "$package" &&
        tar -xzf "$scratch"/llama_cpp_python-*.tar.gz -C "$scratch"; then
        mkdir -p "$a/llama.cpp"
        cp -r "$scratch"/llama_cpp_python-*/vendor/llama.cpp/{convert_hf_to_gguf.py,conversion,gguf-py} "$a/llama.cpp"
        CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF" "$a/bin/python" "${pip[@]}" install "$scratch"/llama_cpp_python-*/ ||
            echo "setup.sh: llama.cpp could not be compiled; it will be left out" >&2
    else
        echo "setup.sh: the source of llama.cpp cannot be had; it will be left out" >&2
    fi
    rm -rf "$scratch"
fi
