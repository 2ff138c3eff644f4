#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs what a build needs, builds, starts a head and two more nodes on this machine, counts the
# words of a corpus over them, and stops the cluster: [FOLDER...]
# As root each node has a network namespace with an address of its own, else ports of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
deploy/deps.sh build
make -s -j"$(nproc)" all

ray=$PWD/build/bin/ray
folder=$(mktemp -d /tmp/ray-first-run-XXXXXX)
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN
nodes=(head node2 node3)
prefix=ray$$
cpus=$((($(nproc) + 2) / 3))
has_networks=

end() {
    for n in "${nodes[@]}"; do
        RAY_TMPDIR=$folder/$n "$ray" stop >/dev/null 2>&1 || true
    done
    for n in "${nodes[@]}"; do
        ip netns del "$prefix-$n" 2>/dev/null || true
    done
    ip link del "$prefix" 2>/dev/null || true
    rm -rf "$folder"
}
trap end EXIT
trap 'exit 130' INT TERM

# 10.211.0.1, .2, .3 behind a bridge
make_networks() {
    local i=0 n
    ip link add "$prefix" type bridge && ip link set "$prefix" up || return 1
    for n in "${nodes[@]}"; do
        i=$((i + 1))
        ip netns add "$prefix-$n" &&
            ip link add "$prefix.$i" type veth peer name eth0 netns "$prefix-$n" &&
            ip link set "$prefix.$i" master "$prefix" up &&
            ip -n "$prefix-$n" addr add "10.211.0.$i/24" dev eth0 &&
            ip -n "$prefix-$n" link set eth0 up &&
            ip -n "$prefix-$n" link set lo up || return 1
    done
}

# What a command needs before it to be run at that node.
at() {
    local n=$1
    shift
    if [ -n "$has_networks" ]; then
        RAY_TMPDIR=$folder/$n ip netns exec "$prefix-$n" "$@"
    else
        RAY_TMPDIR=$folder/$n "$@"
    fi
}

if [ "$(id -u)" -eq 0 ] && command -v ip >/dev/null && make_networks 2>/dev/null; then
    has_networks=yes
    address=10.211.0.1
else
    address=127.0.0.1
    echo "no network namespaces here: the nodes share the address $address"
fi
mkdir "$folder/head" "$folder/node2" "$folder/node3"
at head "$ray" start --head --port=0 --node-ip-address=$address --num-cpus="$cpus"
gcs=$(cat "$folder/head/ray_current_cluster")
for i in 2 3; do
    [ -z "$has_networks" ] || address=10.211.0.$i
    at node$i "$ray" start --address="$gcs" --node-ip-address=$address --num-cpus="$cpus" | sed -n 2p
done
at head "$ray" status
RAY_ADDRESS=$gcs at head build/examples/wordcount "$@"
for n in node3 node2 head; do
    at $n "$ray" stop
done
