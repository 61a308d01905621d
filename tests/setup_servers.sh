#!/usr/bin/env bash
# Gets what the tests need onto a Debian or Ubuntu machine. What is there already is left as it is; no server is started.
#
#   tests/setup_servers.sh            MariaDB and PostgreSQL from the distribution, and the folders with other versions (below)
#   tests/setup_servers.sh tools      only make, Python and its venv module
#   tests/setup_servers.sh any        only MariaDB from the distribution, and only where there is no MySQL either
#   tests/setup_servers.sh postgres   only PostgreSQL, without a cluster or a service
#   tests/setup_servers.sh promtool   only Prometheus's promtool, unpacked into the folder below (20 MB), not installed
#   tests/setup_servers.sh all        as without a word, and what only `make test-all` needs
#   tests/setup_servers.sh deb        only what builds Debian packages
#   tests/setup_servers.sh browser    only headless Chromium (100 MB)
#   tests/setup_servers.sh bench      as without a word, and nginx with its Lua module, for the benchmarks
#   tests/setup_servers.sh remove     removes the folders
#
# MariaDB 11.8 and MySQL (and MariaDB 10.11, where the distribution has another one) get a folder with a small Debian in
# ${XDG_CACHE_HOME:-~/.cache}/cdc_indexer_servers: made once a machine, about a minute and 700 MB each, from the mirror
# that apt uses here. Without Debian's mirrors (Ubuntu) there are no folders. With CI=true everything must succeed;
# else this says what is missing, and the tests run on what is there.
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/cdc_indexer_servers
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { echo "setup_servers: $*"; }

missing() {
    say "$*" >&2
    [[ ${CI:-} != true ]] || exit 1
}

as_root() {
    if [[ $(id -u) == 0 ]]; then "$@"; else sudo "$@"; fi
}

updated=
apt_update() {
    [[ -z $updated ]] || return 0
    updated=yes
    say "apt-get update"
    # One source of many that is out of reach is no reason to stop.
    as_root apt-get update -qq || say "apt-get update failed; going on with what apt knows"
}

apt_install() {
    command -v apt-get >/dev/null || { say "no apt-get here: install $* by hand"; return 1; }
    apt_update
    say "apt-get install $*"
    # --no-remove: MariaDB and MySQL exclude each other; what the machine has stays.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends --no-remove "$@" >/dev/null
}

tools() {
    local packages=()
    command -v make >/dev/null || packages+=(make)
    python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3 python3-venv)
    [[ ${#packages[@]} == 0 ]] || apt_install "${packages[@]}"
}

mariadb() {
    if command -v mariadbd >/dev/null && command -v mariadb >/dev/null; then return 0; fi
    command -v apt-get >/dev/null && apt_update
    local version=
    # Ubuntu 22.04 and Debian 11 have the version in the package's name.
    apt-cache show mariadb-server-core >/dev/null 2>&1 ||
        version=$(apt-cache --names-only search '^mariadb-server-core-[0-9.]+$' | sed 's/.*core\(-[0-9.]*\) .*/\1/' | sort -V | tail -1)
    apt_install "mariadb-server-core$version" "mariadb-client-core$version"
}

any() {
    if command -v mysqld >/dev/null && command -v mysql >/dev/null; then return 0; fi
    mariadb
}

# PostgreSQL for the central index: the program only. The tests make their own clusters.
postgres() {
    local one
    for one in /usr/lib/postgresql/*/bin/initdb; do
        [[ ! -x $one ]] || return 0
    done
    apt_install postgresql-common || return 1
    # Else the package would make a cluster and start it.
    as_root sed -i 's/^#\?create_main_cluster *=.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
    apt_install "$(apt-cache --names-only search '^postgresql-[0-9]+$' | awk '{ print $1 }' | sort -V | tail -1)"
}

# The mirror that this Debian is installed from, whichever way it is written down for apt.
mirror() {
    local codename uri
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    # shellcheck disable=SC2016  # the variables are apt's
    uri=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v codename="$codename" '$1 == "Debian" && $2 == codename && $3 == "main" && $4 !~ /^cdrom/ && !n++ { print $4 }')
    # Cloud images name a file with the mirrors in it.
    if [[ $uri == mirror+file:* ]]; then
        uri=$(awk '!/^#/ && NF { print $1; exit }' "${uri#mirror+file:}")
    fi
    echo "$uri"
}

remove_folder() {
    [[ -e $1 ]] || return 0
    # debootstrap mounts proc while it works, and leaves it when it is killed.
    awk -v within="$1/" 'index($2, within) == 1 { print $2 }' /proc/mounts | sort -r | while read -r mount; do
        as_root umount -l "$mount"
    done
    as_root rm -rf --one-file-system "$1"
}

# folder NAME SUITE SERVER PACKAGE...: a small Debian SUITE with PACKAGEs, in which SERVER is the program that counts.
folder() {
    local name=$1 suite=$2 server=$3
    shift 3
    local folder=$cache/$name unfinished=$cache/$name.unfinished log=$cache/$name.log packages proxy=
    [[ ! -x $folder/usr/sbin/$server ]] || return 0
    local from=
    if command -v apt-get >/dev/null; then
        apt_update
        from=$(mirror)
    fi
    if [[ -z $from ]]; then
        missing "$name can't be made: there is no mirror of Debian's for apt here"
        return 0
    fi
    command -v debootstrap >/dev/null || apt_install debootstrap || { missing "no debootstrap, no $name"; return 0; }
    say "making $folder; takes about a minute"
    remove_folder "$unfinished"
    remove_folder "$folder"
    eval "$(apt-config shell proxy Acquire::http::Proxy)"
    packages=$(IFS=,; echo "$*")
    # An interrupted run leaves the other name, and this one is made again.
    if as_root env http_proxy="${http_proxy:-$proxy}" debootstrap --variant=minbase --include="$packages" \
        "$suite" "$unfinished" "$from" >"$log" 2>&1 &&
        as_root chroot "$unfinished" "$server" --version >>"$log" 2>&1; then
        as_root find "$unfinished/var/cache/apt" -name '*.deb' -delete
        as_root mv "$unfinished" "$folder"
        say "made: $(tail -1 "$log")"
    else
        tail -5 "$log" >&2
        missing "$name can't be made; see $log"
    fi
}

servers() {
    mariadb || missing "MariaDB can't be installed"
    postgres || missing "PostgreSQL can't be installed"
    mkdir -p "$cache"
    exec 9>"$cache/.setup.lock"
    flock 9
    mariadbd --version 2>/dev/null | grep -q 'Ver 10\.11\.' ||
        folder mariadb-10.11 bookworm mariadbd mariadb-server-core mariadb-client-core
    folder mariadb-11.8 trixie mariadbd mariadb-server-core mariadb-client-core
    folder mysql-sid sid mysqld mysql-server-core mysql-client-core
}

# What only the longest tests need.
all() {
    servers
    deb || missing "Debian packages can't be built"
    # In this one the README's steps are typed, and the packages installed: as bare as a new machine with a database.
    folder debian-12 bookworm mariadbd adduser python3-venv mariadb-server-core mariadb-client-core mariadb-common systemd iproute2
    folder debian-13 trixie adduser adduser python3-venv systemd iproute2
}

# The package would bring a service and 34 others with it; its tool is one file.
promtool() {
    if type -P promtool >/dev/null; then return 0; fi
    [[ ! -x $cache/promtool/promtool ]] || return 0
    local work
    work=$(mktemp -d)
    apt_update
    if (cd "$work" && apt-get download -qq prometheus >/dev/null 2>&1 && dpkg-deb -x prometheus_*.deb . &&
        install -D usr/bin/promtool "$cache/promtool/promtool"); then
        say "made: $cache/promtool/promtool"
    else
        say "promtool can't be had: the tests of the alerts are skipped" >&2
    fi
    rm -rf "$work"
}

browser() {
    local one
    for one in chromium-headless-shell chromium chromium-browser google-chrome; do
        if command -v "$one" >/dev/null; then return 0; fi
    done
    apt_install chromium-headless-shell || apt_install chromium ||
        say "Chromium can't be installed: the tests of the status page in a browser are skipped" >&2
}

deb() {
    local packages=()
    command -v dh >/dev/null || packages+=(debhelper)
    command -v lintian >/dev/null || packages+=(lintian)
    # The system's own interpreter, whatever comes first on the PATH.
    /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3 python3-venv)
    [[ ${#packages[@]} == 0 ]] || apt_install "${packages[@]}"
}

bench() {
    servers
    if command -v nginx >/dev/null && [[ -e /usr/lib/nginx/modules/ngx_http_lua_module.so ]]; then return 0; fi
    local had=
    command -v nginx >/dev/null && had=yes
    apt_install nginx-light libnginx-mod-http-lua || { missing "nginx can't be installed"; return 0; }
    # The package starts one on port 80, which nobody has asked for.
    if [[ -z $had ]] && command -v systemctl >/dev/null; then
        as_root systemctl disable --quiet --now nginx 2>/dev/null || true
    fi
}

case ${1:-servers} in
    servers)
        servers
        # What a developer may be without, and a change must pass.
        if [[ ${CI:-} == true ]]; then
            promtool
            browser
        fi
        ;;
    all | tools | any | deb | bench | postgres | promtool | browser) "$1" ;;
    remove)
        for name in mariadb-10.11 mariadb-11.8 mysql-sid debian-12 debian-13; do
            remove_folder "$cache/$name"
            remove_folder "$cache/$name.unfinished"
        done
        rm -rf "$cache/promtool" "$cache"/wheels-*
        ;;
    *)
        say "unknown: $1 (see the beginning of this file)" >&2
        exit 2
        ;;
esac
