#!/usr/bin/env bash
# Builds llama.cpp's own llama-server from the source that the pinned llama-cpp-python vendors, with the flags that
# pip builds our library with: the peer of `make bench-engine`. build_peer.sh PYTHON FOLDER; about 7 minutes on 2 cores.
set -euo pipefail

python=$1 folder=$2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
requirement=$(grep -o 'llama-cpp-python==[0-9.]*' "$root/pyproject.toml")
server=$folder/$requirement/bin/llama-server

if [[ ! -x $server ]]; then
    mkdir -p "$folder/source"
    "$python" -m pip download --quiet --no-deps --no-build-isolation --no-binary llama-cpp-python \
        --dest "$folder" "$requirement" >&2 ||
        "$python" -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest "$folder" "$requirement" >&2
    tar -xzf "$folder"/llama_cpp_python-*.tar.gz -C "$folder/source" --strip-components=1
    cmake -S "$folder/source/vendor/llama.cpp" -B "$folder/$requirement" -G Ninja -DCMAKE_BUILD_TYPE=Release \
        -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=ON -DLLAMA_OPENSSL=OFF -DLLAMA_CURL=OFF -DLLAMA_BUILD_UI=OFF \
        -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF >&2
    nice -n 10 ninja -C "$folder/$requirement" llama-server >&2
fi
echo "$server"
