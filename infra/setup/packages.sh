# Sourced by quickstart.sh and test.sh: installs Debian or Ubuntu packages that are missing.
# Works offline when nothing is missing. Names are the same on Debian 12 and 13, Ubuntu 22.04 and 24.04.

hone_build_packages="gcc libc6-dev cmake ninja-build pkg-config protobuf-c-compiler libprotobuf-c-dev
    libzmq3-dev librocksdb-dev libyaml-dev libjansson-dev libpcre2-dev libutf8proc-dev libssl-dev
    libxxhash-dev libzstd-dev"
hone_test_packages="libcmocka-dev libsimde-dev clang-format python3"

say() {
    printf '==> %s\n' "$*"
}

# hone_install PACKAGE...: what dpkg does not report as installed is installed with apt-get.
hone_install() {
    missing=""
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
            missing="$missing $package"
    done
    if [ -z "$missing" ]; then
        say "packages: all present"
        return 0
    fi
    if ! command -v apt-get >/dev/null; then
        echo "hone: apt-get not found; install these by hand:$missing" >&2
        return 1
    fi
    run=""
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "hone: not root and no sudo; ask an administrator to install:$missing" >&2
            return 1
        fi
        run="sudo"
    fi
    say "packages: installing$missing"
    $run apt-get update -qq
    # shellcheck disable=SC2086
    $run env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing \
        >/dev/null
}

# hone_build PRESET: configures and builds build/PRESET.
hone_build() {
    say "build: preset $1 in build/$1"
    cmake --preset "$1" >/dev/null
    cmake --build --preset "$1" -- -v >"build/$1/build.log" 2>&1 || {
        tail -n 40 "build/$1/build.log" >&2
        echo "hone: the build failed; the whole output is in build/$1/build.log" >&2
        return 1
    }
}
