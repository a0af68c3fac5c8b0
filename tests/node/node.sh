#!/usr/bin/env bash
# Runs k3sd on this host as an ordinary node, without touching the host.
#
# The node gets namespaces of its own: a network joined to the host by one veth pair, process ids (so that everything
# it started ends with it), and mounts: a copy-on-write view of the host's files, whose writes go to a scratch
# directory. containerd, crun and nft are the host's. When the script ends, by Ctrl-C or otherwise, nothing of it is
# left but the scratch directory, which keeps the cluster's state for the next run.
#
#   node.sh [--agent] [--name NAME] [--lan NAMESPACE,ADDRESS] BINARIES STATE_DIR [argument of k3sd]...
#
# With --agent it runs `k3sd agent`. With --lan the node is not alone on its link but, with this address of 100.127.254.0/24, on the
# network of a bridge `lan` in a network namespace that is there already; 100.127.254.1 is its gateway.
#
# STATE_DIR/kubeconfig is a kubeconfig for the host; STATE_DIR/address holds the node's address, STATE_DIR/interface the
# name of the host's end of its link.
set -euo pipefail

role=server host=skerry-native lan=
while [[ ${1:-} == --* ]]; do
    case $1 in
        --agent) role=agent; shift ;;
        --name) host=$2; shift 2 ;;
        --lan) lan=${2%,*} address=${2#*,}; shift 2 ;;
        *) echo "node.sh: unknown option $1" >&2; exit 2 ;;
    esac
done
binaries=$(realpath "$1") state=$(realpath -m "$2")
shift 2
[[ $(id -u) == 0 ]] || { echo "node.sh: a node needs root; run it as root" >&2; exit 1; }

# Another node may be running: take the first free of 64 point-to-point networks in the shared address space (RFC 6598).
for index in $(seq 0 63); do
    net=skerry$index
    if ip netns add "$net" 2>/dev/null; then
        ip link add "$net" type veth peer name "${net}p" 2>/dev/null && break
        ip netns del "$net"
    fi
    [[ $index == 63 ]] && { echo "node.sh: no free network: remove old interfaces named skerryN" >&2; exit 1; }
done
host_ip=100.127.255.$((index * 4 + 1)) node_ip=100.127.255.$((index * 4 + 2)) prefix=30
if [[ -n $lan ]]; then host_ip=100.127.254.1 node_ip=$address prefix=24; fi
pod_groups() { find /sys/fs/cgroup -depth -type d -path '*/kubepods*' 2>/dev/null || true; }
# Another kubelet's, which may run on this host.
found_groups=$(pod_groups)
cleanup() {
    # k3sd leaves pods running, and the end of the namespace has killed them: their control groups are empty.
    for pod in "$state"/kubelet/pods/*; do
        find /sys/fs/cgroup -depth -type d -path "*${pod##*/}*" -exec rmdir {} + 2>/dev/null || true
    done
    # The groups above them go, too, unless they were there before or somebody else uses them.
    pod_groups | grep -vxF "$found_groups" | tr '\n' '\0' | xargs -0r rmdir 2>/dev/null || true
    ip netns del "$net" 2>/dev/null || true
    ip link del "$net" 2>/dev/null || true
}
trap cleanup EXIT

mkdir -p "$state"/{upper,work,root,data,kubelet,logs}
ip link set "${net}p" netns "$net" name eth0
if [[ -n $lan ]]; then
    ip link set "$net" netns "$lan"
    ip -n "$lan" link set "$net" master lan up
    # A node that is started again is the same machine to its neighbours.
    ip -n "$net" link set eth0 address "$(printf '02:53:4b:00:00:%02x' "${address##*.}")"
else
    ip addr add "$host_ip/$prefix" dev "$net"
    ip link set "$net" up
fi
# `ip netns exec` would mount a new /sys, which has no control groups.
in_node() { nsenter --net="/run/netns/$net" "$@"; }
in_node ip link set lo up
in_node ip addr add "$node_ip/$prefix" dev eth0
in_node ip link set eth0 up
in_node ip route add default via "$host_ip"
echo "$node_ip" >"$state/address"
echo "$net" >"$state/interface"

# What the appliance's image brings along: images, manifests, the CNI plugin's place.
share=$state/upper/usr/share/skerry
mkdir -p "$share"/{images,manifests} "$state/upper/opt/cni/bin"
for name in pause demo; do
    "$binaries/image" oci --name "localhost/skerry/$name:1" --binary "$binaries/$name" --out "$share/images/$name.tar" >/dev/null
done
cp "$(dirname "$(realpath "$0")")/../../image/files/demo.yaml" "$share/manifests/"
ln -sf "$binaries/k3sd" "$state/upper/opt/cni/bin/skerry-cni"
ln -sf "$binaries/k3sd" "$state/upper/opt/cni/bin/loopback"

# The rest runs inside the namespaces; it is told everything through its environment.
export SCRATCH=$state NODE_IP=$node_ip K3SD=$binaries/k3sd ROLE=$role NODE_NAME=$host
nsenter --net="/run/netns/$net" unshare --mount --pid --uts --ipc --fork --kill-child --propagation private \
    bash -euo pipefail -c '
        lower=/
        mount -t overlay skerry -o "lowerdir=$lower,upperdir=$SCRATCH/upper,workdir=$SCRATCH/work" "$SCRATCH/root"
        cd "$SCRATCH/root"
        mkdir -p var/lib/rancher/k3s var/lib/kubelet var/log/pods
        mount --bind "$SCRATCH/data" var/lib/rancher/k3s
        mount --bind "$SCRATCH/kubelet" var/lib/kubelet
        mount --bind "$SCRATCH/logs" var/log/pods
        mount --rbind /dev dev
        mount -t proc proc proc
        mount -t sysfs sysfs sys
        mount -t tmpfs -o mode=0755 tmpfs run
        mount -t tmpfs -o mode=1777 tmpfs tmp
        mount --rbind /sys/fs/cgroup sys/fs/cgroup
        # crun refuses a host that has both versions of control groups mounted.
        if mountpoint -q sys/fs/cgroup/unified; then umount sys/fs/cgroup/unified; fi
        mkdir -p "${K3SD%/*}" ".${K3SD%/*}"
        mount --bind "${K3SD%/*}" ".${K3SD%/*}"
        hostname "$NODE_NAME"
        # Not chroot: programs that enter the namespace later would see the host root.
        mkdir -p .host
        pivot_root . .host
        cd /
        umount --lazy /.host
        mount --make-rshared /
        # Killing the shell with the namespace would give k3sd no time: hand it the signal and wait.
        "$K3SD" "$ROLE" --node-ip "$NODE_IP" "$@" &
        child=$!
        trap "kill -TERM $child" TERM INT
        until ! kill -0 $child 2>/dev/null; do wait $child && status=0 || status=$?; done
        exit $status
    ' k3sd "$@" &
node=$!
# unshare itself ignores the signals that it has a child for.
trap 'kill -TERM $(pgrep -P $node) 2>/dev/null || true' TERM INT

# The kubeconfig is for programs inside; those outside reach the same server by the node's address.
kubeconfig=$state/upper/etc/rancher/k3s/k3s.yaml
while [[ $role == server ]] && kill -0 $node 2>/dev/null; do
    if [[ -s $kubeconfig ]] && ! [[ -e $state/kubeconfig && $state/kubeconfig -nt $kubeconfig ]]; then
        sed "s#https://127.0.0.1:#https://$node_ip:#" "$kubeconfig" >"$state/kubeconfig.tmp"
        chmod 600 "$state/kubeconfig.tmp"
        mv "$state/kubeconfig.tmp" "$state/kubeconfig"
        echo "node.sh: kubectl --kubeconfig $state/kubeconfig get nodes; curl http://$node_ip:30080/" >&2
        break
    fi
    sleep 0.2
done
until ! kill -0 $node 2>/dev/null; do wait $node && status=0 || status=$?; done
exit "${status:-0}"
