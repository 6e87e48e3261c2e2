# shellcheck shell=bash
# An order over four databases, with Try-Confirm-Cancel.  To be sourced by run.

SERVERS=(shop payment points stock)
CONFIG="dtx.stuck_after = '1s'"
demo_servers

say '' \
	"  shop     port ${SERVER_PORT[shop]}  the coordinator, with the orders: the application connects here only" \
	"  payment  port ${SERVER_PORT[payment]}  a participant with accounts" \
	"  points   port ${SERVER_PORT[points]}  a participant with bonus points" \
	"  stock    port ${SERVER_PORT[stock]}  a participant with the goods"

# draw GID: what happened with it
draw() { run shop app "SELECT dtx.diagram('$1') \\g (format=unaligned tuples_only=on)"; }
state_is() { [ "$(admin shop "SELECT state FROM dtx.transactions WHERE gid = '$1' AND pattern = 'tcc'")" = "$2" ]; }
# Is nothing reserved anywhere?
none_reserved() {
	[ "$(admin payment 'SELECT sum(held) FROM account') $(admin points 'SELECT pending FROM wallet') $(admin stock 'SELECT reserved FROM item')" = '0 0 0' ]
}
all_tables() {
	run payment app 'TABLE account;'
	run points app 'TABLE wallet;'
	run stock app 'TABLE item;'
}

# ---------------------------------------------------------------------------
heading 'Set-up, once'
say 'Participants of TCC need the extension dtx, which remembers there what was tried.'
for server in payment points stock; do
	quietly $server postgres 'SET client_min_messages = warning;'
	if [ $server = payment ]; then run $server postgres 'CREATE EXTENSION dtx CASCADE;'; else quietly $server postgres 'CREATE EXTENSION dtx CASCADE;'; fi
done
say '  ... and the same on points and stock. Each table has a place for what is reserved:'
run payment app "CREATE TABLE account (owner text PRIMARY KEY,
    balance int NOT NULL CHECK (balance >= 0), held int NOT NULL DEFAULT 0);"
run payment app "INSERT INTO account VALUES ('shop', 0), ('alice', 1000);"
run points app "CREATE TABLE wallet (owner text PRIMARY KEY, points int NOT NULL, pending int NOT NULL DEFAULT 0);"
run points app "INSERT INTO wallet VALUES ('alice', 0);"
run stock app "CREATE TABLE item (name text PRIMARY KEY,
    available int NOT NULL CHECK (available >= 0), reserved int NOT NULL DEFAULT 0);"
run stock app "INSERT INTO item VALUES ('bicycle', 3);"
say 'The shop loads dtx and knows the others as foreign servers of dblink.'
quietly shop postgres 'SET client_min_messages = warning;'
run shop postgres 'CREATE EXTENSION dtx CASCADE;'
quietly shop postgres 'REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC;'
run shop postgres "$(node payment)"
say '  ... and the same for points and stock.'
quietly shop postgres "$(node points)"
quietly shop postgres "$(node stock)"
run shop app "CREATE TABLE orders (number int PRIMARY KEY, customer text, item text, price int);"
say 'An order tries on three servers: each try is committed there at once, and comes with the statement' \
	'that confirms it and the one that cancels it.'
run shop app "CREATE PROCEDURE place_order(number int, price int, gid text DEFAULT NULL) BEGIN ATOMIC
    INSERT INTO orders VALUES (number, 'alice', 'bicycle', price);
    SELECT dtx.tcc_try('payment',
        try     => 'UPDATE account SET balance = balance - \$1, held = held + \$1 WHERE owner = \$2',
        confirm => 'UPDATE account SET held = held - CASE owner WHEN ''shop'' THEN 0 ELSE \$1 END,
                                   balance = balance + CASE owner WHEN ''shop'' THEN \$1 ELSE 0 END
                     WHERE owner IN (''shop'', \$2)',
        cancel  => 'UPDATE account SET balance = balance + \$1, held = held - \$1 WHERE owner = \$2',
        args    => jsonb_build_array(price, 'alice'), gid => gid);
    SELECT dtx.tcc_try('points',
        try     => 'UPDATE wallet SET pending = pending + \$1 WHERE owner = \$2',
        confirm => 'UPDATE wallet SET pending = pending - \$1, points = points + \$1 WHERE owner = \$2',
        cancel  => 'UPDATE wallet SET pending = pending - \$1 WHERE owner = \$2',
        args    => jsonb_build_array(price / 10, 'alice'), gid => gid);
    SELECT dtx.tcc_try('stock',
        try     => 'UPDATE item SET available = available - 1, reserved = reserved + 1 WHERE name = \$1',
        confirm => 'UPDATE item SET reserved = reserved - 1 WHERE name = \$1',
        cancel  => 'UPDATE item SET available = available + 1, reserved = reserved - 1 WHERE name = \$1',
        args    => jsonb_build_array('bicycle'), gid => gid);
END;"

# ---------------------------------------------------------------------------
heading '1. An order: COMMIT confirms all that was tried'
run shop app 'BEGIN;'
run shop app 'CALL place_order(1, 200);'
run shop app 'SELECT dtx.current_gid();'
gid=$(grep -o 'dtx_[0-9a-f_]*' <<<"$ANSWER" || :)
say 'Before COMMIT everybody can see what is reserved, and no row is locked:'
all_tables
run shop app 'COMMIT;'
all_tables
expect 30 state_is "$gid" committed
say 'What happened, with times since it was begun (a Mermaid diagram: paste it into Markdown):'
draw "$gid"

# ---------------------------------------------------------------------------
heading '2. Nothing left in stock: what was tried is cancelled'
quietly stock app "UPDATE item SET available = 0;"
say 'Somebody has bought all other bicycles. The money is reserved when that turns out:'
run shop app 'BEGIN;'
run_refused shop app 'CALL place_order(2, 200);'
run shop app 'COMMIT;'
expect 30 none_reserved
all_tables
quietly stock app "UPDATE item SET available = 2;"
say 'They were brought back.'

# ---------------------------------------------------------------------------
heading '3. The payment database is killed before it could confirm'
run shop app 'BEGIN;'
run shop app 'CALL place_order(3, 200);'
run shop app 'SELECT dtx.current_gid();'
gid=$(grep -o 'dtx_[0-9a-f_]*' <<<"$ANSWER" || :)
show_command 'kill -9 all processes of payment'
close_session payment app
close_session payment postgres
server_kill9 payment
run shop app 'COMMIT;'
say 'The order is committed, and what is not confirmed yet will be:'
run shop app "SELECT step, node, operation, state, left(error, 50) AS error FROM dtx.steps WHERE gid = '$gid' ORDER BY step, operation DESC;"
show_command 'start payment'
start=$(now_ms)
server_start payment
answers=$(now_ms)
expect 60 state_is "$gid" committed
say "It answers after $((answers - start)) ms, and $(($(now_ms) - answers)) ms later the payment is confirmed. Nobody did anything."
run payment app 'TABLE account;'
draw "$gid"

# ---------------------------------------------------------------------------
heading '4. The coordinator is killed before it has decided'
run shop app 'BEGIN;'
run shop app 'CALL place_order(4, 200);'
show_command 'kill -9 all processes of shop'
server_kill9 shop
close_session shop app
close_session shop postgres
say 'The tries are there, and nobody remembers the order:'
run stock app 'TABLE item;'
show_command 'start shop'
start=$(now_ms)
server_start shop
answers=$(now_ms)
expect 60 none_reserved
say "It answers after $((answers - start)) ms, and $(($(now_ms) - answers)) ms later all of it is cancelled: what does not know of a" \
	'decision asks for it.'
run stock app 'TABLE item;'

# ---------------------------------------------------------------------------
heading '5. A TCC transaction over several sessions'
say 'A customer who thinks it over for some minutes keeps no session and no transaction open.'
run shop app "SELECT dtx.tcc_begin('order 5', timeout => '1 hour');"
run shop app "CALL place_order(5, 200, gid => 'order 5');"
run stock app 'TABLE item;'
close_session shop app
run shop app "SELECT dtx.tcc_confirm('order 5');"
run shop app "SELECT dtx.wait('order 5');"
draw 'order 5'

# ---------------------------------------------------------------------------
heading '6. Does it all add up?'
expect 30 none_reserved
# Asked behind dtx's back, on every server by itself.
orders=$(admin shop "SELECT count(*) FROM orders")
alice=$(admin payment "SELECT balance FROM account WHERE owner = 'alice'")
earned=$(admin payment "SELECT balance FROM account WHERE owner = 'shop'")
points=$(admin points 'SELECT points FROM wallet')
left=$(admin stock 'SELECT available FROM item')
open=$(admin shop 'SELECT count(*) FROM dtx.transactions WHERE finished_at IS NULL AND submitted_at IS NOT NULL')
say "  shop: $orders orders" \
	"  payment: alice $alice + shop $earned = $((alice + earned)), and it was 1000 + 0 = 1000" \
	"  points: $points, and $orders orders of 200 give $((orders * 20))" \
	"  stock: $left left of 3; $((3 - left)) were sold" \
	"  reserved: nothing; TCC transactions left open: $open"
if ((orders == 3 && alice + earned == 1000 && earned == orders * 200 &&
	points == orders * 20 && 3 - left == orders && open == 0)); then
	good '  Every order is whole, or as if it had never been.'
	demo_end 0
else
	say "$red  THIS DOES NOT ADD UP.$off"
	demo_end 1
fi
