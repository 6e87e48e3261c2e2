# shellcheck shell=bash
# Set-up rules that test/run, test/demo/run and test/bench/* share.
# Source this file; it defines functions and runs nothing.
#
# A script that uses it has two stages:
#
#     set -euo pipefail
#     . "$(dirname "${BASH_SOURCE[0]}")/lib.sh"     # ../lib.sh one level down
#     dtx_enter tests "$@"        # stage 1 stops here and runs stage 2
#     dtx_private_postgres        # stage 2: sets and exports PG_CONFIG
#     dtx_install DTX_FAULTS=1    # or without: no fault points
#     ...
#
# Stage 1 runs as whoever called: it installs missing packages, makes one
# directory for everything ($DTX_DIR, with a short name) and copies the project
# into $DTX_DIR/src.  Stage 2 is the same script in that copy, run as an
# ordinary user, because PostgreSQL refuses root.  When stage 2 ends, or on
# Ctrl-C, stage 1 stops every process that still runs a program of $DTX_DIR and
# removes the directory.  Nothing is installed outside of it but packages.
#
# PG_CONFIG, if set, chooses the PostgreSQL to build for and to copy.
# Stage 2 may create $DTX_DIR/keep (leave servers and directory), and lists
# what is to be copied back to the project in $DTX_DIR/results, one path a line.

PATH=$PATH:/usr/sbin:/sbin
# what a caller's environment must not change
unset PGHOST PGPORT PGUSER PGDATABASE PGPASSWORD PGPASSFILE PGOPTIONS PGDATA \
	PGSERVICE PGSERVICEFILE PGSSLMODE PGAPPNAME MAKEFLAGS MAKELEVEL
unset LC_ALL LANGUAGE
export LANG=C.UTF-8

dtx_say() { printf '%s\n' "$*"; }
dtx_die() { printf 'error: %s\n' "$*" >&2; exit 1; }

#
# Packages
#

# The pg_config to use: the caller's, or the newest PostgreSQL of Debian that
# has server headers, or whatever is in the PATH.  Empty when there is none.
dtx_find_pg_config()
{
	local c
	if [ -n "${PG_CONFIG:-}" ]; then
		command -v "$PG_CONFIG" || true
		return
	fi
	for c in $(ls -d /usr/lib/postgresql/*/bin/pg_config 2>/dev/null | sort -rV) \
		$(command -v pg_config || true); do
		if [ -e "$("$c" --includedir-server)/postgres.h" ]; then
			dtx_say "$c"
			return
		fi
	done
}

# Print the Debian packages that are missing.  Looks for what is used, not for
# package names, so a PostgreSQL built from source is as good as Debian's.
# $1 = "tests": also what only the tests need.
dtx_missing_packages()
{
	local c v
	command -v gcc >/dev/null || dtx_say gcc
	command -v make >/dev/null || dtx_say make
	[ -e /usr/include/stdio.h ] || dtx_say libc6-dev
	c=$(dtx_find_pg_config)
	if [ -z "$c" ] || [ ! -x "$("$c" --bindir)/postgres" ] ||
		[ ! -e "$("$c" --includedir-server)/postgres.h" ] || [ ! -e "$("$c" --pgxs)" ]; then
		[ -z "${PG_CONFIG:-}" ] || dtx_die "no server and headers for PG_CONFIG=$PG_CONFIG"
		v=$(dtx_debian_major)
		dtx_say "postgresql-$v"
		dtx_say "postgresql-server-dev-$v"
	fi
	if [ "$1" = tests ]; then
		perl -MIPC::Run -MTest::More -e 1 2>/dev/null || dtx_say libipc-run-perl
		command -v nft >/dev/null || dtx_say nftables
		command -v ip >/dev/null || dtx_say iproute2
	fi
}

# The PostgreSQL version of this Debian release (15 on Debian 12).
dtx_debian_major()
{
	local v
	v=$(apt-cache depends postgresql 2>/dev/null |
		sed -n 's/.*Depends: postgresql-\([0-9]\+\).*/\1/p' | head -n 1)
	dtx_say "${v:-15}"
}

# Install what is missing, or say what to install.
dtx_require_packages()
{
	local missing sudo=""
	missing=$(dtx_missing_packages "$1" | xargs)
	[ -n "$missing" ] || return 0
	command -v apt-get >/dev/null || dtx_die "missing: $missing"
	if [ "$(id -u)" != 0 ]; then
		# without a terminal sudo must not ask for a password
		sudo=$(command -v sudo || true)
		[ -z "$sudo" ] || [ -t 0 ] || sudo="$sudo -n"
		if [ -z "$sudo" ] || ! $sudo true 2>/dev/null; then
			# partition tests skip themselves where these two are missing
			missing=$(dtx_say "$missing" | tr ' ' '\n' | grep -vxE 'nftables|iproute2' | xargs || true)
			[ -n "$missing" ] || return 0
			dtx_die "missing packages; as root: apt-get install --no-install-recommends $missing"
		fi
	fi
	dtx_say "installing packages: $missing"
	$sudo apt-get -qq update || dtx_say "apt-get update failed, trying to go on"
	missing=$(dtx_missing_packages "$1" | xargs)   # the version is known only now
	# shellcheck disable=SC2086
	dtx_apt_install "$sudo" $missing
	missing=$(dtx_missing_packages "$1" | xargs)
	[ -z "$missing" ] || dtx_die "still missing after installation: $missing"
}

# dtx_apt_install SUDO PACKAGE...: without letting Debian create and start a
# database cluster of its own.  An existing setting is not touched.
dtx_apt_install()
{
	local sudo=$1 log rc=0
	local conf=/etc/postgresql-common/createcluster.d dir
	shift
	# the directories that are not there yet, to be removed again
	for dir in $conf /etc/postgresql-common; do
		[ -d "$dir" ] && break
	done
	$sudo mkdir -p $conf
	dtx_say 'create_main_cluster = false' | $sudo tee $conf/zz_dtx_tests.conf >/dev/null
	log=$(mktemp)
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get -y -qq --no-install-recommends \
		install "$@" >"$log" 2>&1 || rc=$?
	$sudo rm -f $conf/zz_dtx_tests.conf
	[ "$dir" = $conf ] || $sudo rmdir --ignore-fail-on-non-empty $conf
	if [ $rc -ne 0 ]; then
		tail -n 30 "$log" >&2
		rm -f "$log"
		dtx_die "apt-get could not install: $*"
	fi
	rm -f "$log"
}

#
# Stage 1
#

# Where $DTX_DIR is made: in memory for tests where there is plenty of it, since
# they make dozens of servers; on disk for all else.
dtx_tmp() # build|tests
{
	local disk memory
	if [ "$1" = tests ] && [ -z "${TMPDIR:-}" ] && [ -w /dev/shm ] &&
		! grep -qE '^[^ ]+ /dev/shm .*noexec' /proc/mounts; then
		disk=$(df -Pk /dev/shm | awk 'NR == 2 { print $4 }')
		memory=$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)
		if [ "$disk" -gt 4000000 ] && [ "$memory" -gt 6000000 ]; then
			dtx_say /dev/shm
			return
		fi
	fi
	dtx_say "${TMPDIR:-/tmp}"
}

# dtx_enter build|tests ARGS...: run the calling script again as stage 2, then
# exit with its status.  Returns at once when this is stage 2.
dtx_enter()
{
	local want=$1 script user="" rc=0
	shift
	[ -z "${DTX_DIR:-}" ] || return 0
	script=$(readlink -f "$0")
	DTX_HOME=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
	dtx_require_packages "$want"
	PG_CONFIG=$(readlink -f "$(dtx_find_pg_config)")

	DTX_DIR=$(mktemp -d "$(dtx_tmp "$want")/dtx.XXXXXX")
	export DTX_DIR DTX_HOME PG_CONFIG
	trap dtx_cleanup EXIT
	trap 'dtx_stop_stage2; exit 130' INT
	trap 'dtx_stop_stage2; exit 143' TERM HUP
	mkdir "$DTX_DIR/src" "$DTX_DIR/t"
	# what git keeps or would keep; everything when this is not a checkout
	(
		cd "$DTX_HOME"
		if git -c safe.directory='*' ls-files -co --exclude-standard >"$DTX_DIR/files" 2>/dev/null; then
			# a file may be deleted but still in the index
			while read -r f; do [ ! -e "$f" ] || dtx_say "$f"; done <"$DTX_DIR/files" >"$DTX_DIR/list"
			tar -cf - -T "$DTX_DIR/list"
		else
			tar -cf - --exclude=.git --exclude='*.o' --exclude='*.so' --exclude='*.bc' .
		fi
	) | tar -xf - -C "$DTX_DIR/src"

	if [ "$(id -u)" = 0 ]; then
		user=${TEST_USER:-postgres}
		id "$user" >/dev/null 2>&1 || user=nobody
		chown -R "$user:" "$DTX_DIR"
	fi
	cd "$DTX_DIR"				# the other user may not read where we are
	# In a process group of its own, so that all of it can be stopped at once.
	set -m
	${user:+runuser -u "$user" --} env HOME="$DTX_DIR" TMPDIR="$DTX_DIR/t" \
		bash "$DTX_DIR/src/${script#"$DTX_HOME"/}" "$@" </dev/null &
	DTX_STAGE2=$!
	set +m
	wait $DTX_STAGE2 || rc=$?
	dtx_copy_results
	exit $rc
}

dtx_stop_stage2()
{
	trap '' INT TERM HUP
	kill -TERM -- "-$DTX_STAGE2" 2>/dev/null || true
	wait "$DTX_STAGE2" 2>/dev/null || true
}

dtx_copy_results()
{
	local f
	[ -e "$DTX_DIR/results" ] || return 0
	while read -r f; do
		rm -rf "${DTX_HOME:?}/$f"
		[ -e "$DTX_DIR/src/$f" ] || continue
		mkdir -p "$DTX_HOME/$(dirname "$f")"
		cp -r "$DTX_DIR/src/$f" "$DTX_HOME/$f"
	done <"$DTX_DIR/results"
}

# Processes that run a program of $DTX_DIR: the servers and their clients, as
# only they can.
dtx_processes()
{
	local exe
	for exe in /proc/[0-9]*/exe; do
		case $(readlink "$exe" 2>/dev/null) in
			"$DTX_DIR"/*) exe=${exe%/exe}; dtx_say "${exe#/proc/}" ;;
		esac
	done
}

# Stop servers the quick way, so that they free their shared memory; then kill
# whatever is left (a stopped process hears nothing else).
dtx_cleanup()
{
	local pids i
	[ ! -e "$DTX_DIR/keep" ] || return 0
	for i in $(seq 50); do
		pids=$(dtx_processes)
		[ -n "$pids" ] || break
		# shellcheck disable=SC2086
		kill -CONT $pids 2>/dev/null || true
		# shellcheck disable=SC2086
		[ "$i" -gt 1 ] || kill -QUIT $pids 2>/dev/null || true
		sleep 0.1
	done
	# shellcheck disable=SC2086
	[ -z "$pids" ] || kill -KILL $pids 2>/dev/null || true
	dtx_free_shared_memory
	rm -rf "$DTX_DIR"
}

# A server that was killed, and not started again, leaves a segment of System V
# shared memory behind; the seventh line of its postmaster.pid names it.
dtx_free_shared_memory()
{
	local f key id
	find "$DTX_DIR" -name postmaster.pid 2>/dev/null | while read -r f; do
		read -r key id < <(sed -n 7p "$f") || continue
		# only if it is still the same one and nobody is attached
		if awk -v k="$key" -v i="$id" '$1 == k && $2 == i && $7 == 0 { f = 1 } END { exit !f }' \
			/proc/sysvipc/shm; then
			ipcrm -m "$id"
		fi
	done
}

#
# Stage 2
#

# A private copy of the PostgreSQL tree in $DTX_DIR/pg: PostgreSQL finds lib/
# and share/ from where its programs are, so the copy can have extensions
# installed into it by an ordinary user.
dtx_private_postgres()
{
	local priv=$DTX_DIR/pg d inc
	for d in "$("$PG_CONFIG" --bindir)" "$("$PG_CONFIG" --pkglibdir)" "$("$PG_CONFIG" --sharedir)"; do
		mkdir -p "$priv$d"
		cp -aL "$d/." "$priv$d/"
	done
	inc=$("$PG_CONFIG" --includedir)
	mkdir -p "$priv$(dirname "$inc")"
	ln -s "$inc" "$priv$inc"
	PG_CONFIG=$priv$("$PG_CONFIG" --bindir)/pg_config
	export PG_CONFIG
	PATH=$(dirname "$PG_CONFIG"):$PATH
}

# dtx_make ARGS...: make in the project copy, without bitcode (which would need
# clang and says nothing about dtx).
dtx_make() { make -s -C "$DTX_DIR/src" PG_CONFIG="$PG_CONFIG" with_llvm=no "$@"; }

# dtx_install [DTX_FAULTS=1] [VAR=VALUE...]: build and install dtx into the
# private copy.
dtx_install()
{
	dtx_make "$@" clean
	dtx_make -j"$(nproc)" "$@" all
	dtx_make "$@" install
}

# Let every server of the private copy run with the address and undefined
# behaviour sanitizers, dtx being built for them by dtx_install with these:
DTX_SANITIZE=(PG_CFLAGS="-Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers -Wno-clobbered -fsanitize=address,undefined -fno-sanitize-recover=undefined -O1 -g"
	SHLIB_LINK="-fsanitize=address,undefined")
dtx_sanitize_server() # REPORT-FILE
{
	local bin
	bin=$(dirname "$PG_CONFIG")
	# Debian 12: bindtextdomain() hangs for ever under a preloaded libasan
	printf '%s\n' 'char *bindtextdomain(const char *d, const char *n) { return (char *) n; }' \
		'char *textdomain(const char *d) { return (char *) d; }' |
		gcc -shared -fPIC -w -x c -o "$DTX_DIR/nonls.so" -
	mv "$bin/postgres" "$bin/postgres.real"
	cat >"$bin/postgres" <<-X
		#!/bin/bash
		export LD_PRELOAD="$(readlink -f "$(gcc -print-file-name=libasan.so)") $DTX_DIR/nonls.so"
		export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:log_path=$1 UBSAN_OPTIONS=print_stacktrace=1
		exec -a "\$0" "$bin/postgres.real" "\$@"
	X
	chmod +x "$bin/postgres"
}

# A TCP port of 127.0.0.1 that nothing uses, from the range that
# PostgreSQL::Test::Cluster takes (below the ports of outgoing connections).
dtx_free_port()
{
	perl -MIO::Socket::INET -e 'for (1 .. 1000) { my $p = 10200 + int rand 22000;
		IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $p, Listen => 1) or next;
		print "$p\n"; exit } exit 1'
}
