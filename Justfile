# What people and CI run. `./just --list` shows it all; `./just run` and `./just test` do their own set-up.

set shell := ["bash", "-euo", "pipefail", "-c"]

# Where rustup puts cargo, for machines it was installed on a moment ago. First, since a distribution's cargo may be too old.
export PATH := cargo_home + "/bin:" + env("PATH")

# === variables: change them on the command line, as in `./just out=/tmp/image run` ===

# Crates that were fetched, and cargo itself where rustup installed it.
cargo_home := env("CARGO_HOME", env("HOME") / ".cargo")

# Static binaries come from the host's own target with the C library linked in.
target := "x86_64-unknown-linux-gnu"
target_dir := env("CARGO_TARGET_DIR", justfile_directory() / "target")
binaries := target_dir / target / "release"

# Where the image goes, and the state disk and kubeconfig of `run` beside it.
out := env("SKERRY_OUT", justfile_directory() / "build/image")

# Where `node` keeps its state, its kubeconfig and its writes to the host's files.
node_state := env("SKERRY_NODE", justfile_directory() / "build/node")

# Programs of the appliance, and the tools that build and boot it.
programs := "-p k3sd -p init -p pause -p demo"
tools := "-p image -p qemu"

# Messages of panics name sources as crates/... and target/...: where these were on this machine is nobody's concern, and would make other
# bytes of the same sources. Our own have no path in front anyway; to name it here would have every checkout compile all crates anew.
remap := "--remap-path-prefix=" + target_dir + "=target --remap-path-prefix=" + cargo_home + "/registry/src=crates"

# Links the C library in. Works with --target only: else it would reach procedural macros, which cannot be static.
static := "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS='-C target-feature=+crt-static " + remap + "'"

# Prints the recipes.
default:
    @just --list

# Builds everything and boots it in QEMU. Arguments go to `qemu run`, such as --fresh or --headless --until ready.
run *arguments: image
    #!/usr/bin/env bash
    set -euo pipefail
    kubectl="$(command -v kubectl || {{ binaries }}/image tool kubectl)"
    exec {{ binaries }}/qemu run {{ out }} --kubectl "$kubectl" {{ arguments }}

# Everything CI checks: format, lints, unit and integration tests, and booted images.
test: check image && test-end-to-end
    cargo test --locked --workspace --exclude tests
    SKERRY_IMAGE={{ out }} SKERRY_BINARIES={{ binaries }} cargo test --locked -p image --test reproduce -- --ignored

# The end-to-end tests alone, or some: `./just test-end-to-end --test vm boot::`. Arguments go to `cargo test`.
test-end-to-end *arguments: image
    #!/usr/bin/env bash
    set -euo pipefail
    # What tests/ takes its parts from.
    export SKERRY_IMAGE={{ out }} SKERRY_BINARIES={{ binaries }}
    KUBECTL="${KUBECTL:-$(command -v kubectl || {{ binaries }}/image tool kubectl)}"
    export KUBECTL
    cargo test --locked -p tests {{ arguments }}

# Measures: `boot build/image`, `server K3SD DIRECTORY`, `apiserver DIRECTORY`, `datastore DIRECTORY`. The head of each file in tests/bench says what.
bench which *arguments: setup
    cargo run --locked --release -p tests --example bench-{{ which }} -- {{ arguments }}

# Runs `k3sd server` on this host, as root, in namespaces of its own, until Ctrl-C. Arguments go to k3sd.
node *arguments: build
    #!/usr/bin/env bash
    set -euo pipefail
    root=(); [[ $(id -u) == 0 ]] || root=(sudo)
    exec "${root[@]}" tests/node/node.sh {{ binaries }} {{ node_state }} {{ arguments }}

# Checks formatting and lints.
check: setup
    cargo fmt --all --check
    cargo clippy --locked --workspace --all-targets -- -D warnings

# The static binaries.
build: setup
    {{ static }} cargo build --locked --release --target {{ target }} {{ programs }} {{ tools }}
    @# Which crates are in them, for the image's bill of materials.
    cargo tree --locked --target {{ target }} --edges normal,no-proc-macro --prefix none --format '{p}|{l}' {{ programs }} > {{ binaries }}/crates.txt

# Disk image, netboot bundle, kernel, initramfs and root file system, from the binaries and Debian's packages. Arguments go to `image build`.
image *arguments: build
    {{ binaries }}/image build --out {{ out }} --binaries {{ binaries }} {{ arguments }}

# An image from source: fetches the pinned Buildroot and builds TARGET (x86_64, aarch64, raspberrypi4_64). Takes an hour or more.
buildroot target *arguments:
    buildroot/build.sh {{ target }} {{ justfile_directory() }}/build/buildroot {{ arguments }}

# Installs what a fresh Debian 12 or 13 lacks for all of the above; does nothing where nothing is missing.
setup:
    #!/usr/bin/env bash
    set -euo pipefail
    missing=()
    # need PROBE PACKAGE...: the probe is a command's name or a file's path
    need() {
        local probe="$1"; shift
        if [[ "$probe" == /* ]]; then [[ -e "$probe" ]] || missing+=("$@")
        else PATH="$PATH:/usr/sbin:/sbin" command -v "$probe" >/dev/null || missing+=("$@"); fi
    }
    # To build: C for SQLite and TLS, protoc and its standard files for the container runtime interface.
    need gcc gcc libc6-dev
    need make make
    need pkg-config pkg-config
    need git git
    need curl curl
    need protoc protobuf-compiler
    need /usr/include/google/protobuf/descriptor.proto libprotobuf-dev
    need /etc/ssl/certs/ca-certificates.crt ca-certificates
    # To boot the image.
    need qemu-system-x86_64 qemu-system-x86
    need /usr/share/OVMF/OVMF_CODE_4M.fd ovmf
    need setpriv util-linux
    # To run a node on this host. A containerd that is here, such as Docker's, stays.
    need containerd containerd
    need runc runc
    need crun crun
    need nft nftables
    need ip iproute2
    # What the tests hold our disks, file systems and archives against, and what their containers run.
    need debugfs e2fsprogs
    need veritysetup cryptsetup-bin
    need fsck.fat dosfstools
    need sfdisk fdisk
    need cpio cpio
    need pgrep procps
    need busybox busybox-static
    if (( ${#missing[@]} > 0 )); then
        if ! command -v apt-get >/dev/null; then
            echo "setup: please install what Debian calls: ${missing[*]}" >&2
            exit 1
        fi
        root=(); [[ $(id -u) == 0 ]] || root=(sudo)
        echo "setup: installing ${missing[*]}"
        "${root[@]}" apt-get -qq update || echo "setup: some package lists could not be fetched; going on" >&2
        DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get -qq install -y --no-install-recommends "${missing[@]}"
    fi
    # rustup fetches the toolchain that rust-toolchain.toml pins on first use; any other cargo must be new enough.
    wanted="$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)"
    new_enough() {
        local found
        found="$(cargo --version | cut -d ' ' -f 2)" && printf '%s\n' "$wanted" "$found" | sort --version-sort --check=quiet
    }
    if ! command -v cargo >/dev/null && apt-cache show rustup >/dev/null 2>&1; then
        root=(); [[ $(id -u) == 0 ]] || root=(sudo)
        "${root[@]}" apt-get -qq install -y --no-install-recommends rustup
    elif ! command -v cargo >/dev/null || ! new_enough; then
        # A distribution's cargo that is too old stays where it is.
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal
        hash -r
    fi
    if ! new_enough; then
        echo "setup: cargo is older than $wanted" >&2
        exit 1
    fi
