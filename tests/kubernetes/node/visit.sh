#!/bin/bash
# visit.sh STATE CMD...: runs CMD on this machine's own file system but in the node's network and with the cluster's DNS,
# as a client beside the cluster's pods: a test, Airflow, curl. KUBECONFIG is the administrator's.
set -eu
state=$1
shift
export KUBECONFIG=$state/pki/admin.kubeconfig
exec nsenter --net="/proc/$(cat "$state/init.pid")/ns/net" -- unshare -m -- bash -c '
  mount --make-rprivate / && mount --bind "$0" /etc/resolv.conf && exec "$@"' "$state/resolv.conf" "$@"
