# shellcheck shell=bash
# What the programs of this folder share: a coordinator and two nodes with
# accounts, samples of them, and a little arithmetic.  To be sourced after
# test/lib.sh and test/servers.sh, in stage 2 (see test/lib.sh).
#
# Role "app" may use dtx but not dblink, role "byhand" dblink as well.

SERVERS=(coordinator node_a node_b)
accounts=10000
opening_balance=1000000
export PGCONNECT_TIMEOUT=10 PGPASSWORD=only-for-the-bench

# Before dtx_enter: a disk is to be measured, not memory.
bench_on_disk() {
	[ -z "${DTX_DIR:-}" ] || return 0
	if [ -z "${TMPDIR:-}" ] && [ "$(stat -f -c %T /tmp)" = tmpfs ]; then export TMPDIR=/var/tmp; fi
	if [ "$(stat -f -c %T "${TMPDIR:-/tmp}")" = tmpfs ]; then
		dtx_say "note: ${TMPDIR:-/tmp} is in memory; set TMPDIR to a folder on a disk" >&2
	fi
}

# bench_begin [VAR=VALUE...]: servers are stopped at the end, however it comes.
# Builds dtx (with these variables), sets ROOT, BIN and LIBPQ (flags for gcc).
bench_begin() {
	BEGUN_MS=$(now_ms)
	background=
	trap bench_end EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	ROOT=$DTX_DIR/servers
	mkdir -m 700 "$ROOT"
	LIBPQ=(-I"$("$PG_CONFIG" --includedir)" -L"$("$PG_CONFIG" --libdir)" -Wl,-rpath,"$("$PG_CONFIG" --libdir)" -lpq)
	dtx_private_postgres
	BIN=$(dirname "$PG_CONFIG")
	dtx_install "$@"
}

bench_end() {
	trap '' INT TERM HUP
	set +e
	# shellcheck disable=SC2086
	[ -z "$background" ] || kill $background 2>/dev/null
	kill -CONT "${SERVER_PID[@]}" 2>/dev/null	# one may have been stopped
	servers_stop
}

# The servers with their databases, roles and accounts; more settings on stdin.
# Only the coordinator loads dtx.
bench_servers() {
	local server role
	servers_create "${SERVERS[@]}"
	echo "shared_preload_libraries = 'dtx'" >>"$ROOT/coordinator/postgresql.conf"
	for server in "${SERVERS[@]}"; do
		server_start "$server"
		"$BIN/createdb" -h "$ROOT" -p "${SERVER_PORT[$server]}" -U postgres "$server"
		admin "$server" "CREATE ROLE app LOGIN PASSWORD '$PGPASSWORD'; CREATE ROLE byhand LOGIN PASSWORD '$PGPASSWORD'"
	done
	for server in node_a node_b; do
		admin "$server" "CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL);
			INSERT INTO account SELECT i, $opening_balance FROM generate_series(1, $accounts) i;
			GRANT SELECT, UPDATE ON account TO app, byhand"
		admin "$server" 'VACUUM ANALYZE account'
	done
	admin coordinator "SET client_min_messages = warning; CREATE EXTENSION dtx CASCADE;
		REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC;
		GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO byhand;
		GRANT CREATE ON SCHEMA public TO byhand"
	for server in node_a node_b; do
		admin coordinator "CREATE SERVER $server FOREIGN DATA WRAPPER dblink_fdw
			OPTIONS (host '127.0.0.1', port '${SERVER_PORT[$server]}', dbname '$server');
			GRANT USAGE ON FOREIGN SERVER $server TO app, byhand"
		for role in app byhand; do
			admin coordinator "CREATE USER MAPPING FOR $role SERVER $server OPTIONS (user '$role', password '$PGPASSWORD')"
		done
	done
}

# as_role ROLE PSQL-ARGUMENTS...: psql on the coordinator, as pgbench connects.
as_role() {
	local role=$1
	shift
	"$BIN/psql" -Xq -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "${SERVER_PORT[coordinator]}" -U "$role" -d coordinator "$@"
}

# Microseconds of processor time of all servers so far, ended processes
# included, as /proc has them.
cpu_us() {
	# a process may be gone before it is read
	{ cat /proc/[0-9]*/stat 2>/dev/null || :; } | awk -v servers="${SERVER_PID[*]}" -v tick="$(getconf CLK_TCK)" '
		BEGIN { split(servers, s, " "); for (i in s) server[s[i]] = 1 }
		{ pid = $1; sub(/^.*\) /, "") }		# now $2 is the parent, $12 to $15 the times
		pid in server { total += $12 + $13 + $14 + $15 }
		$2 in server { total += $12 + $13 }
		END { printf "%.0f\n", total * 1000000 / tick }'
}

# Median of the numbers on stdin, one a line.
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# middle "N N N": the same of words.
middle() { tr -s ' ' '\n' <<<"${1% }" | median; }

# spread "N N N": largest less smallest.
spread() { tr -s ' ' '\n' <<<"${1% }" | awk 'NR == 1 { a = b = $1 } $1 < a { a = $1 } $1 > b { b = $1 } END { print b - a }'; }

# quotient A B DIGITS
quotient() { awk -v a="$1" -v b="$2" -v d="$3" 'BEGIN { printf "%.*f", d, (b == 0 ? 0 : a / b) }'; }

# at_least A B: as numbers
at_least() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a >= b) }'; }

# Is anything prepared on the nodes?
none_prepared() {
	[ "$(admin node_a 'SELECT count(*) FROM pg_prepared_xacts')$(admin node_b 'SELECT count(*) FROM pg_prepared_xacts')" = 00 ]
}

# Both sums, which transfers must not change.
money() { echo $(($(admin node_a 'SELECT sum(balance) FROM account') + $(admin node_b 'SELECT sum(balance) FROM account'))); }

# What the figures depend on, in one line: processors, disk, version.
bench_machine() {
	local flush
	flush=$(perl -MIO::Handle -MTime::HiRes=time -e 'open my $f, ">", $ARGV[0] or die; my @t;
		for (1 .. 100) { my $b = time; seek $f, 0, 0; syswrite $f, "x" x 8192; $f->sync; push @t, time - $b }
		printf "%.2f", (sort { $a <=> $b } @t)[50] * 1000' "$ROOT/flush")
	rm -f "$ROOT/flush"
	echo "$(nproc) processors ($(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)), Linux $(uname -r)," \
		"$(stat -f -c %T "$ROOT"), a flush of 8 kB $flush ms," \
		"PostgreSQL $(admin coordinator 'SHOW server_version' | cut -d' ' -f1), load average $(cut -d' ' -f1 /proc/loadavg) at the start"
}

# To a person who waits; nothing when nobody does.
progress() { if [ -t 2 ]; then printf '\r\e[K%s' "$*" >&2; fi; }

bench_seconds() { echo $((($(now_ms) - BEGUN_MS) / 1000)); }
