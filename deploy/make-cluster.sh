#!/bin/sh
# Makes one cluster of empty Valkey or Redis nodes, with a replica to each primary, and waits until it serves.
# Where that was done before it only waits, so it can run at each start.
#
#   sh make-cluster.sh 172.30.0.11:6379 172.30.0.12:6379 ... (three nodes or more, an even number; IP addresses)
set -eu

cli=$(command -v valkey-cli || command -v redis-cli) || {
    echo "neither valkey-cli nor redis-cli is here" >&2
    exit 1
}

# One line of CLUSTER INFO as the first node has it.
told() {
    "$cli" -h "${first%:*}" -p "${first##*:}" cluster info | tr -d '\r' | sed -n "s/^$1://p"
}

first=$1
known=$(told cluster_known_nodes)
if [ "$known" = 1 ]; then
    "$cli" --cluster create "$@" --cluster-replicas 1 --cluster-yes
elif [ -z "$known" ]; then
    echo "$first is no node of a cluster that can be asked" >&2
    exit 1
fi
until [ "$(told cluster_state)" = ok ]; do
    echo "the nodes do not serve all slots yet"
    sleep 1
done
echo "the cluster serves"
