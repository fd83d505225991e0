#!/bin/bash
# Installs a lock file and this project; run it in the project's root.
#
#   bash envs/install.sh [LOCK [PIP...]]    default: envs/cpu.txt, with the pip of the active environment
#
# `make` calls it, and so does `snakemake --sdm conda`, which finds it as conda.post-deploy.sh. What has to be
# built (two source distributions, and this project) is built with the locked backend, not with a downloaded one.
# Python compiles a module when it is first imported and keeps that: to compile all of them here would double the
# time. Where it may not keep it, every command would compile all that it imports, so there it is done here.
set -euo pipefail

lock=${1:-envs/cpu.txt}
pip=("${@:2}")
((${#pip[@]})) || pip=(python -m pip)
install=("${pip[@]}" --quiet --disable-pip-version-check install)
[[ -n ${PYTHONDONTWRITEBYTECODE:-} ]] || install+=(--no-compile)

"${install[@]}" --require-hashes -r envs/build.txt
"${install[@]}" --require-hashes --no-build-isolation --use-pep517 -r "$lock"
"${install[@]}" --no-index --no-build-isolation --no-deps -e .
