# shellcheck shell=bash
# Throw-away PostgreSQL servers for the demo and the bench.  To be sourced.
#
# A server is a child of the calling shell, so a killed one is reaped at once and
# can be started again.  The caller sets BIN (a folder with PostgreSQL's programs)
# and ROOT (a folder of its own, mode 0700: whoever can enter it is superuser of
# these servers through their sockets).

declare -A SERVER_PORT SERVER_PID
SERVER_INITDB=()
SERVER_ENV=()		# VAR=VALUE of the environment of servers

# One line of SQL as superuser through the socket: admin SERVER SQL
admin() {
	"$BIN/psql" -XAtq -v ON_ERROR_STOP=1 -h "$ROOT" -p "${SERVER_PORT[$1]}" -U postgres -d "$1" -c "$2"
}

# Milliseconds of some clock.
now_ms() { local t=$EPOCHREALTIME; t=${t/[.,]/}; echo "${t%???}"; }

# wait_until SECONDS COMMAND...: repeat the command until it succeeds.
wait_until() {
	local end=$(($(now_ms) + $1 * 1000))
	shift
	until "$@"; do
		(($(now_ms) < end)) || return 1
		sleep 0.02
	done
}

# initdb for all named servers at once, with the settings given on stdin.
servers_create() {
	local name conf
	conf=$(cat)
	for name; do
		"$BIN/initdb" -N -U postgres -E UTF8 --no-locale -A trust --no-instructions --no-clean \
			-D "$ROOT/$name" >"$ROOT/$name.initdb" 2>&1 &
		SERVER_INITDB+=($!)
	done
	for name; do
		wait "${SERVER_INITDB[0]}" || { cat "$ROOT/$name.initdb" >&2; return 1; }
		SERVER_INITDB=("${SERVER_INITDB[@]:1}")
		cat >>"$ROOT/$name/postgresql.conf" <<-X
			listen_addresses = '127.0.0.1'
			unix_socket_directories = '$ROOT'
			cluster_name = '$name'
			timezone = 'UTC'
			lc_messages = 'C'
			$conf
		X
		cat >"$ROOT/$name/pg_hba.conf" <<-X
			local all postgres trust
			host all all 127.0.0.1/32 scram-sha-256
		X
	done
}

# Start one server and wait until it takes connections.  Its port is chosen at the
# first start and kept.
server_start() {
	local name=$1 tries=0 port
	while :; do
		port=${SERVER_PORT[$name]:-$((RANDOM % 12000 + 20000))}
		setsid env "${SERVER_ENV[@]}" "$BIN/postgres" -D "$ROOT/$name" -p "$port" >>"$ROOT/$name.log" 2>&1 </dev/null &
		SERVER_PID[$name]=$!
		while kill -0 "${SERVER_PID[$name]}" 2>/dev/null; do
			# "ready" is the line that pg_ctl waits for, too
			if grep -qs '^ready' "$ROOT/$name/postmaster.pid" &&
				"$BIN/pg_isready" -q -h "$ROOT" -p "$port" -t 1; then
				SERVER_PORT[$name]=$port
				return 0
			fi
			sleep 0.01
		done
		server_reap "$name"
		if [ -n "${SERVER_PORT[$name]:-}" ] || ((++tries > 20)) ||
			! tail -n 5 "$ROOT/$name.log" | grep -q 'could not bind'; then
			echo "server $name did not start:" >&2
			tail -n 20 "$ROOT/$name.log" >&2
			return 1
		fi
	done
}

# Collect the exit status of an ended server, quietly.
server_reap() {
	{ wait "${SERVER_PID[$1]}"; } 2>/dev/null || :
	unset "SERVER_PID[$1]"
}

# Pids of all processes whose parent is $1.
children_of() {
	local stat rest
	for stat in /proc/[0-9]*/stat; do
		{ read -r rest <"$stat"; } 2>/dev/null || continue
		stat=${stat#/proc/}
		rest=${rest##*) }
		set -- "$1" $rest
		if [ "$3" = "$1" ]; then echo "${stat%/stat}"; fi
	done
}

# kill -9 of every process of a server, as a power cut would.  The postmaster is
# stopped first so that it cannot react to the death of its children.
server_kill9() {
	local pid=${SERVER_PID[$1]} children
	kill -STOP "$pid"
	children=$(children_of "$pid")
	kill -KILL $children "$pid" 2>/dev/null
	server_reap "$1"
	wait_until 10 none_alive $children
}

# True when no such process runs; a zombie that waits for init does not run.
none_alive() {
	local pid line
	for pid; do
		{ read -r line <"/proc/$pid/stat"; } 2>/dev/null || continue
		case ${line##*) } in Z*) ;; *) return 1 ;; esac
	done
}

# Stop all servers at once, without a checkpoint: nothing of them is kept.
servers_stop() {
	local name
	# What the server inside of a killed initdb leaves of shared memory, lib.sh frees,
	# which reads its name in the folder: hence --no-clean above.
	if [ ${#SERVER_INITDB[@]} -gt 0 ]; then
		kill -TERM "${SERVER_INITDB[@]}" 2>/dev/null || :
		wait "${SERVER_INITDB[@]}" 2>/dev/null || :
	fi
	for name in "${!SERVER_PID[@]}"; do kill -QUIT "${SERVER_PID[$name]}" 2>/dev/null || :; done
	for name in "${!SERVER_PID[@]}"; do server_reap "$name"; done
}
