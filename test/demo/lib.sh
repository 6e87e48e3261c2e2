# shellcheck shell=bash
# What the stories of the demo share: how they print, sessions that stay open, the
# servers.  To be sourced after test/lib.sh and test/servers.sh.
#
# A story sets SERVERS (the first is the coordinator), and CONFIG for all of them.

export PGCONNECT_TIMEOUT=10
password=secret

# ---------------------------------------------------------------------------
# What is printed
# ---------------------------------------------------------------------------

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
	bold=$'\e[1m' dim=$'\e[2m' sql=$'\e[36m' red=$'\e[31m' yellow=$'\e[33m' green=$'\e[32m' off=$'\e[0m'
else
	bold='' dim='' sql='' red='' yellow='' green='' off=''
fi
[ -t 1 ] && [ "${TERM:-dumb}" != dumb ] && progress=1 || progress=

heading() {
	printf '\n%s%s%s\n%s%s%s\n' "$bold" "$1" "$off" "$dim" "${1//?/-}" "$off"
}

say() { printf '%s\n' "$@"; }

good() { printf '%s%s%s\n' "$green" "$1" "$off"; }

# doing WHAT: while it lasts; did WHAT: when it is done, with the time it took.
doing() {
	step=$1 step_start=$(now_ms)
	if [ "$progress" ]; then printf '  %s%s ...%s' "$dim" "$1" "$off"; fi
}
did() {
	if [ "$progress" ]; then printf '\r\e[K'; fi
	printf '  %-56s %5s s\n' "$1" "$(seconds $(($(now_ms) - step_start)))"
	step=
}

# Milliseconds as seconds with one decimal.
seconds() { printf '%d.%d' $(($1 / 1000)) $(($1 % 1000 / 100)); }

# A statement behind the name of its server, as psql would show it.
show_sql() {
	local prompt=$1 line
	while IFS= read -r line; do
		printf '  %s%s%s %s%s%s\n' "$dim" "$prompt" "$off" "$sql" "$line" "$off"
		prompt=${prompt//?/ }
	done <<<"$2"
}

# What came back.
show_output() {
	local line color
	[ "$1" ] || return 0
	while IFS= read -r line; do
		line=${line%"${line##*[! ]}"}	# psql pads headers
		case $line in
			WARNING:*) color=$yellow ;;
			ERROR:* | FATAL:* | "server closed"*) color=$red ;;
			DETAIL:* | HINT:* | CONTEXT:*) ;;	# as the line above
			*) color='' ;;
		esac
		if [ "$line" ]; then printf '    %s%s%s\n' "$color" "$line" "${color:+$off}"; fi
	done <<<"$1"
}

show_command() { printf '  %s$%s %s%s%s\n' "$dim" "$off" "$sql" "$1" "$off"; }

# ---------------------------------------------------------------------------
# psql sessions that stay open: one statement at a time, in step with the story
# ---------------------------------------------------------------------------

declare -A SESSION_IN SESSION_OUT SESSION_PID

# open_session SERVER ROLE: one session per server and role.
open_session() {
	local server=$1 role=$2 in out
	local name=$server.$role host=127.0.0.1
	if [ "$role" = postgres ]; then host=$ROOT; fi
	rm -f "$ROOT/$name.in" "$ROOT/$name.out"
	mkfifo "$ROOT/$name.in" "$ROOT/$name.out"
	PGPASSWORD=$password stdbuf -oL "$BIN/psql" -Xq -P footer=off -P null=- -h "$host" \
		-p "${SERVER_PORT[$server]}" -U "$role" -d "$server" \
		<"$ROOT/$name.in" >"$ROOT/$name.out" 2>&1 &
	SESSION_PID[$name]=$!
	exec {in}>"$ROOT/$name.in" {out}<"$ROOT/$name.out"
	SESSION_IN[$name]=$in SESSION_OUT[$name]=$out
}

close_session() {
	local name=$1.$2 in out
	in=${SESSION_IN[$name]:-} out=${SESSION_OUT[$name]:-}
	[ "$in" ] || return 0
	{ printf '\\q\n' >&"$in"; } 2>/dev/null || :
	exec {in}>&- {out}<&-
	{ wait "${SESSION_PID[$name]}"; } 2>/dev/null || :
	unset "SESSION_IN[$name]" "SESSION_OUT[$name]" "SESSION_PID[$name]"
}

# Send a statement, and read what comes back up to a mark, or to the end of a
# session whose server died (LOST is set then).  The answer is in ANSWER.
send() {
	local name=$1.$2
	[ "${SESSION_IN[$name]:-}" ] || open_session "$1" "$2"
	case $3 in
		# with the tag that comes back, COMMIT or ROLLBACK
		COMMIT*) printf '\\set QUIET off\n%s\n\\set QUIET on\n\\echo -- done\n' "$3" ;;
		*) printf '%s\n\\echo -- done\n' "$3" ;;
	esac >&"${SESSION_IN[$name]}"
}
receive() {
	local name=$1.$2 line
	ANSWER='' LOST=''
	while IFS= read -r -t 60 -u "${SESSION_OUT[$name]}" line; do
		[ "$line" != '-- done' ] || return 0
		ANSWER+=${ANSWER:+$'\n'}$line
	done
	close_session "$1" "$2"
	LOST=1
}

# run SERVER ROLE SQL: print the statement, run it, print its output.
run() {
	local prompt="$1=>"
	if [ "$2" = postgres ]; then prompt="$1=#"; fi
	show_sql "$prompt" "$3"
	send "$@"
	receive "$1" "$2"
	show_output "$ANSWER"
	if [ "$LOST" ] || [[ $ANSWER =~ (^|$'\n')ERROR: ]]; then surprise 'This statement should have worked.'; fi
}

# The same for a statement that has to fail.
run_refused() {
	local prompt="$1=>"
	show_sql "$prompt" "$3"
	send "$@"
	receive "$1" "$2"
	show_output "$ANSWER"
	if [ "$LOST" ] || ! [[ $ANSWER =~ (^|$'\n')ERROR: ]]; then surprise 'This statement should have been refused.'; fi
}

# The same, unseen.
quietly() {
	send "$@"
	receive "$1" "$2"
}

# expect SECONDS COMMAND...: what has to become true within that time.
expect() {
	wait_until "$@" || surprise "Not true within $1 s: ${*:2}."
}

surprise() {
	say '' "$red$1 The demo ends here.$off"
	for server in "${SERVERS[@]}"; do
		say '' "Last lines of the log of $server:"
		tail -n 15 "$ROOT/$server.log" | sed 's/^/    /'
	done
	exit 1
}

# ---------------------------------------------------------------------------
# Begin and end
# ---------------------------------------------------------------------------

cleanup() {
	local pid
	trap '' INT TERM HUP
	set +e
	if [ "$progress" ] && [ "${step:-}" ]; then printf '\r\e[K'; fi
	for pid in "${SESSION_PID[@]}"; do kill "$pid"; done 2>/dev/null
	if [ -z "${kept:-}" ]; then servers_stop; fi
}

# In stage 2 of test/lib.sh: a private PostgreSQL with dtx.
demo_begin() {
	ROOT=$DTX_DIR/servers
	trap cleanup EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	trap '' PIPE
	doing 'copying PostgreSQL, so that nothing is installed outside'
	dtx_private_postgres
	BIN=$(dirname "$PG_CONFIG")
	did "private copy of $("$BIN/postgres" -V | sed 's/postgres (PostgreSQL) /PostgreSQL /; s/ (.*//')"
	doing 'building dtx'
	dtx_install
	did 'dtx built'
}

# All servers, each with a database of its name and the role "app"; only the
# coordinator loads dtx.
demo_servers() {
	local server number
	number=$(sed 's/^3$/three/; s/^4$/four/' <<<"${#SERVERS[@]}")
	doing "starting $number servers"
	mkdir -m 700 "$ROOT"
	servers_create "${SERVERS[@]}" <<<"$CONFIG"
	echo "shared_preload_libraries = 'dtx'" >>"$ROOT/${SERVERS[0]}/postgresql.conf"
	for server in "${SERVERS[@]}"; do
		server_start "$server"
		"$BIN/createdb" -h "$ROOT" -p "${SERVER_PORT[$server]}" -U postgres "$server"
		admin "$server" "CREATE ROLE app LOGIN PASSWORD '$password'; GRANT CREATE ON SCHEMA public TO app"
	done
	did "$number servers started"
}

# SQL that makes a server a node.
node() {
	echo "CREATE SERVER $1 FOREIGN DATA WRAPPER dblink_fdw
    OPTIONS (host '127.0.0.1', port '${SERVER_PORT[$1]}', dbname '$1');
CREATE USER MAPPING FOR app SERVER $1
    OPTIONS (user 'app', password '$password');
GRANT USAGE ON FOREIGN SERVER $1 TO app;"
}

# The end: with --keep servers go on.  demo_end STATUS
demo_end() {
	local server
	if [ "$keep" ]; then
		kept=1
		touch "$DTX_DIR/keep"
		heading 'The servers keep running'
		for server in "${SERVERS[@]}"; do
			say "  psql 'host=127.0.0.1 port=${SERVER_PORT[$server]} dbname=$server user=app password=$password'"
		done
		say "As superuser, on ${SERVERS[0]}:" \
			"  psql 'host=$ROOT port=${SERVER_PORT[${SERVERS[0]}]} dbname=${SERVERS[0]} user=postgres'" \
			'To stop and remove them:' \
			"  kill -INT ${SERVER_PID[*]}; sleep 1; rm -rf $DTX_DIR"
	fi
	exit "$1"
}
