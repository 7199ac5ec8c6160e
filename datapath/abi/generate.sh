#!/bin/sh
# generate.sh NAME [bpf2go flags]: compiles bpf/prog/NAME.bpf.c into this package.
set -eu
name=$1
shift
export BPF2GO_CC=clang-19 BPF2GO_STRIP=llvm-strip-19
exec go tool bpf2go -target bpfel -go-package abi "$@" "$name" "../../bpf/prog/$name.bpf.c" -- \
	-O2 -mcpu=v3 -Wall -Wextra -Werror -idirafter "/usr/include/$(uname -m)-linux-gnu"
