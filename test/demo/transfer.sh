# shellcheck shell=bash
# Transfers between two banks: atomic commit.  To be sourced by run.

SERVERS=(ledger bank_a bank_b)
CONFIG="
	max_prepared_transactions = 20
	dtx.stuck_after = '1s'"
demo_servers

say '' \
	"  ledger  port ${SERVER_PORT[ledger]}  the coordinator: the application connects here only" \
	"  bank_a  port ${SERVER_PORT[bank_a]}  a participant with alice's account" \
	"  bank_b  port ${SERVER_PORT[bank_b]}  a participant with bob's account"

heading 'Set-up, once'
say 'The banks need max_prepared_transactions > 0 and their tables; nothing of dtx.'
run bank_a app "CREATE TABLE account (owner text PRIMARY KEY,
    balance int NOT NULL CHECK (balance >= 0));"
run bank_a app "INSERT INTO account VALUES ('alice', 1000);"
quietly bank_b app 'CREATE TABLE account (owner text PRIMARY KEY, balance int NOT NULL CHECK (balance >= 0));'
run bank_b app "INSERT INTO account VALUES ('bob', 1000);"
say 'The ledger loads dtx and knows the banks as foreign servers of dblink.'
run ledger postgres 'CREATE EXTENSION dtx CASCADE;'
run ledger postgres 'REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC;'
run ledger postgres "$(node bank_a)"
say '  ... and the same for bank_b.'
quietly ledger postgres "$(node bank_b)"
say "'app' is an ordinary role, here and on the banks, and logs in by scram."
run ledger app 'CREATE TABLE transfer (payer text, payee text, amount int, at timestamptz DEFAULT now());'
run ledger app "CREATE VIEW money AS
    SELECT 'bank_a' AS bank, *
      FROM dtx.query('bank_a', 'TABLE account') AS (owner text, balance int)
    UNION ALL
    SELECT 'bank_b', *
      FROM dtx.query('bank_b', 'TABLE account') AS (owner text, balance int);"

# ---------------------------------------------------------------------------
heading '1. A transfer over two banks and the ledger: one plain COMMIT'

run ledger app 'BEGIN;'
run ledger app "SELECT dtx.exec('bank_a',
    'UPDATE account SET balance = balance - \$1 WHERE owner = \$2',
    ARRAY['100', 'alice'], expect => 1);"
run ledger app "SELECT dtx.exec('bank_b',
    'UPDATE account SET balance = balance + \$1 WHERE owner = \$2',
    ARRAY['100', 'bob'], expect => 1);"
run ledger app "INSERT INTO transfer VALUES ('alice', 'bob', 100);"
run ledger app 'SELECT dtx.current_gid();'
gid=$(grep -o 'dtx_[0-9a-f_]*' <<<"$ANSWER" || :)
run ledger app 'COMMIT;'
run ledger app "SELECT dtx.outcome('$gid');"
run ledger app 'TABLE money;'

# ---------------------------------------------------------------------------
heading '2. A refused transfer: nothing anywhere'
say 'The ledger and bob are served first; then alice turns out not to have the money.'

run ledger app 'BEGIN;'
run ledger app "INSERT INTO transfer VALUES ('alice', 'bob', 5000);"
run ledger app "SELECT dtx.exec('bank_b',
    'UPDATE account SET balance = balance + \$1 WHERE owner = \$2',
    ARRAY['5000', 'bob'], expect => 1);"
run_refused ledger app "SELECT dtx.exec('bank_a',
    'UPDATE account SET balance = balance - \$1 WHERE owner = \$2',
    ARRAY['5000', 'alice'], expect => 1);"
run ledger app 'COMMIT;'
run ledger app 'SELECT m.*, (SELECT count(*) FROM transfer) AS "rows in ledger" FROM money m;'

# ---------------------------------------------------------------------------
heading '3. A bank is killed between its PREPARE and its COMMIT'
say 'From here on the three statements are a procedure, to save paper.'
run ledger app "CREATE PROCEDURE pay(amount int) BEGIN ATOMIC
    SELECT dtx.exec('bank_a',
        'UPDATE account SET balance = balance - \$1 WHERE owner = \$2',
        ARRAY[amount::text, 'alice'], expect => 1);
    SELECT dtx.exec('bank_b',
        'UPDATE account SET balance = balance + \$1 WHERE owner = \$2',
        ARRAY[amount::text, 'bob'], expect => 1);
    INSERT INTO transfer VALUES ('alice', 'bob', amount);
END;"
say 'So that the crash hits the right moment, bank_b has a deferred trigger that waits for a' \
	'lock which this demo holds. bank_a is prepared by then, and all depends on bank_b.'
run bank_b postgres "CREATE FUNCTION hesitate() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER hesitate AFTER UPDATE ON account
    INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hesitate();"
quietly bank_b postgres 'SELECT pg_advisory_lock(1);'

run ledger app 'BEGIN;'
run ledger app 'CALL pay(200);'
show_sql 'ledger=>' 'COMMIT;'
send ledger app 'COMMIT;'
prepared() { [ "$(admin "$1" 'SELECT count(*) FROM pg_prepared_xacts')" = "$2" ]; }
say "${dim}  ... waiting for bank_b's vote${off}"
expect 20 prepared bank_a 1
run bank_a app 'SELECT gid, owner FROM pg_prepared_xacts;'
close_session bank_a app
close_session bank_a postgres
show_command 'kill -9 all processes of bank_a'
server_kill9 bank_a
start=$(now_ms)
quietly bank_b postgres 'SELECT pg_advisory_unlock(1);'
receive ledger app
say "Now bank_b votes yes, too, and $(($(now_ms) - start)) ms later the COMMIT above returns:"
show_output "$ANSWER"
if [ "$LOST" ] || ! [[ $ANSWER =~ (^|$'\n')COMMIT$ ]]; then surprise 'This COMMIT should have worked.'; fi
say 'Both banks have voted, so the transfer is committed. bank_b has it, bank_a will get it:'
quietly bank_b postgres 'DROP FUNCTION hesitate CASCADE;'
say '  ... after dtx.stuck_after, which is 1 s here:'
stuck() { [ "$(admin ledger 'SELECT count(*) > 0 FROM dtx.stuck')" = t ]; }
expect 20 stuck
run ledger app 'SELECT node, state, failure_count, pending_count FROM dtx.nodes;'
run ledger app 'SELECT node, state, reason, last_error, call FROM dtx.stuck \gx'
show_command 'start bank_a'
start=$(now_ms)
server_start bank_a
answers=$(now_ms)
expect 60 prepared bank_a 0
say "It answers after $((answers - start)) ms, and $(($(now_ms) - answers)) ms later its branch is committed. Nobody did anything."
run ledger app 'TABLE money;'

# ---------------------------------------------------------------------------
heading '4. The coordinator is killed after the decision'
say 'The commit record of the ledger is the decision. To crash right behind it, the ledger gets' \
	'a stand-by that does not exist: COMMIT writes its record and waits for that stand-by.'
run ledger postgres "ALTER SYSTEM SET synchronous_standby_names = 'nobody';"
quietly ledger postgres 'SELECT pg_reload_conf();'
# The checkpointer tells the backends: commits of no importance show when it has.
quietly ledger postgres 'SET application_name = probe;'
send ledger postgres "DO 'BEGIN LOOP PERFORM pg_logical_emit_message(true, \$\$\$\$, \$\$\$\$);
	COMMIT; PERFORM pg_sleep(0.01); END LOOP; END';"
waiting() {
	[ "$(admin ledger "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND $1")" = 1 ]
}
expect 20 waiting "application_name = 'probe'"

run ledger app 'BEGIN;'
run ledger app 'CALL pay(50);'
run ledger app 'SELECT dtx.current_gid();'
gid=$(grep -o 'dtx_[0-9a-f_]*' <<<"$ANSWER" || :)
show_sql 'ledger=>' 'COMMIT;'
send ledger app 'COMMIT;'
expect 20 waiting "usename = 'app'"
say "${dim}  ... decided, and waiting for the stand-by${off}"
for bank in bank_a bank_b; do
	run "$bank" app 'SELECT gid, owner FROM pg_prepared_xacts;'
done
show_command 'kill -9 all processes of ledger'
server_kill9 ledger
say 'The application only sees:'
receive ledger app
show_output "$ANSWER"
close_session ledger postgres
: >"$ROOT/ledger/postgresql.auto.conf"
show_command 'start ledger       # without the stand-by'
start=$(now_ms)
server_start ledger
answers=$(now_ms)
expect 60 prepared bank_a 0
expect 60 prepared bank_b 0
say "It answers after $((answers - start)) ms, and $(($(now_ms) - answers)) ms later both branches are committed. Nobody did" \
	'anything. The application connects again and asks what became of its transaction:'
run ledger app "SELECT dtx.outcome('$gid');"
run ledger app 'TABLE money;'

# ---------------------------------------------------------------------------
heading '5. Is the money all there?'
# Asked behind dtx's back, on every server by itself.
a=$(admin bank_a 'SELECT sum(balance) FROM account')
b=$(admin bank_b 'SELECT sum(balance) FROM account')
moved=$(admin ledger 'SELECT sum(amount) FROM transfer')
left=0
for server in bank_a bank_b ledger; do
	left=$((left + $(admin "$server" 'SELECT count(*) FROM pg_prepared_xacts')))
done
say "  bank_a $a + bank_b $b = $((a + b)), and it was 1000 + 1000 = 2000" \
	"  the ledger says that $moved went from bank_a to bank_b; $((1000 - a)) left, $((b - 1000)) arrived" \
	"  prepared transactions left on the three servers: $left"
verdict=0
if ((a + b == 2000 && moved == 350 && 1000 - a == moved && left == 0)); then
	good '  Not one unit of money was lost.'
else
	say "$red  THIS DOES NOT ADD UP.$off"
	verdict=1
fi

demo_end "$verdict"
