#!/bin/bash
# enter.sh STATE CMD...: runs CMD in the node: in its cgroups, its namespaces and its file system.
set -eu
state=$1
shift
for group in $(cat "$state/cgroups"); do echo $$ >"$group/cgroup.procs"; done
exec setpriv --pdeathsig KILL nsenter -t "$(cat "$state/init.pid")" -m -n -p -u -i -C -- "$@"
