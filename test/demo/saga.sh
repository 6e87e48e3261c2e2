# shellcheck shell=bash
# An order over four databases, as a saga.  To be sourced by run.

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
state_is() { [ "$(admin shop "SELECT state FROM dtx.transactions WHERE gid = '$1'")" = "$2" ]; }

# ---------------------------------------------------------------------------
heading 'Set-up, once'
say 'Participants of sagas need the extension dtx, which remembers there what was applied.'
for server in payment points stock; do
	quietly $server postgres 'SET client_min_messages = warning;'
	if [ $server = payment ]; then run $server postgres 'CREATE EXTENSION dtx CASCADE;'; else quietly $server postgres 'CREATE EXTENSION dtx CASCADE;'; fi
done
say '  ... and the same on points and stock. Their tables belong to their services:'
run payment app "CREATE TABLE account (owner text PRIMARY KEY,
    balance int NOT NULL CHECK (balance >= 0));"
run payment app "INSERT INTO account VALUES ('shop', 0), ('alice', 1000);"
run payment app "CREATE FUNCTION pay(amount int, payer text, payee text) RETURNS void BEGIN ATOMIC
    UPDATE account SET balance = balance - amount WHERE owner = payer;
    UPDATE account SET balance = balance + amount WHERE owner = payee;
END;"
run points app "CREATE TABLE wallet (owner text PRIMARY KEY, points int NOT NULL);"
run points app "INSERT INTO wallet VALUES ('alice', 0);"
run stock app "CREATE TABLE item (name text PRIMARY KEY,
    available int NOT NULL CHECK (available >= 0));"
run stock app "INSERT INTO item VALUES ('bicycle', 3);"
say 'The shop loads dtx and knows the others as foreign servers of dblink.'
quietly shop postgres 'SET client_min_messages = warning;'
run shop postgres 'CREATE EXTENSION dtx CASCADE;'
quietly shop postgres 'REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC;'
run shop postgres "$(node payment)"
say '  ... and the same for points and stock.'
quietly shop postgres "$(node points)"
quietly shop postgres "$(node stock)"
run shop app "CREATE TABLE orders (number int PRIMARY KEY, customer text, item text,
    price int, state text);"
say 'The definition of the saga: what each step does, and what undoes it. A step without a node' \
	'runs in the shop itself.'
run shop app "SELECT dtx.saga_define('order', \$\${\"steps\": [
  {\"name\": \"order\",
   \"action\": \"INSERT INTO orders VALUES (\$1, \$2, \$3, \$4, 'new')\",
   \"compensation\": \"UPDATE orders SET state = 'refused' WHERE number = \$1\",
   \"args\": [\"\$.input.number\", \"\$.input.customer\", \"\$.input.item\", \"\$.input.price\"]},
  {\"name\": \"pay\", \"node\": \"payment\",
   \"action\": \"SELECT pay(\$1, \$2, 'shop')\",
   \"compensation\": \"SELECT pay(\$1, 'shop', \$2)\",
   \"args\": [\"\$.input.price\", \"\$.input.customer\"]},
  {\"name\": \"reward\", \"node\": \"points\",
   \"action\": \"UPDATE wallet SET points = points + \$1 / 10 WHERE owner = \$2 RETURNING points\",
   \"compensation\": \"UPDATE wallet SET points = points - \$1 / 10 WHERE owner = \$2\",
   \"args\": [\"\$.input.price\", \"\$.input.customer\"]},
  {\"name\": \"take\", \"node\": \"stock\",
   \"action\": \"UPDATE item SET available = available - 1 WHERE name = \$1 RETURNING available\",
   \"compensation\": \"UPDATE item SET available = available + 1 WHERE name = \$1\",
   \"args\": [\"\$.input.item\"]},
  {\"name\": \"close\",
   \"action\": \"UPDATE orders SET state = 'done' WHERE number = \$1\",
   \"args\": [\"\$.input.number\"]}]}\$\$) AS version;"
order() { # NUMBER
	printf '{"number": %s, "customer": "alice", "item": "bicycle", "price": 200}' "$1"
}

# ---------------------------------------------------------------------------
heading '1. An order: dtx.saga_run drives it in the session, and returns when it is over'
run shop app "CALL dtx.saga_run(name => 'order', gid => 'order 1', input =>
    '$(order 1)');"
run shop app 'TABLE orders;'
say 'What happened, with times since it was begun (a Mermaid diagram: paste it into Markdown):'
draw 'order 1'

# ---------------------------------------------------------------------------
heading '2. Nothing left in stock: what was done is compensated'
quietly stock app "UPDATE item SET available = 0;"
say "Somebody has bought all other bicycles. The customer has paid and has his points when that turns out:"
run_refused shop app "CALL dtx.saga_run(name => 'order', gid => 'order 2', input =>
    '$(order 2)');"
run shop app 'TABLE orders;'
draw 'order 2'
quietly stock app "UPDATE item SET available = 2;"
say 'They were brought back.'

# ---------------------------------------------------------------------------
heading '3. The payment database is down for a while: nothing is lost, nobody waits'
show_command 'kill -9 all processes of payment'
close_session payment app
close_session payment postgres
server_kill9 payment
say 'dtx.saga_start returns at once. The saga exists if, and only if, this transaction commits.'
run shop app 'BEGIN;'
run shop app "SELECT dtx.saga_start('order', '$(order 3)', gid => 'order 3');"
run shop app 'COMMIT;'
waits() { [ "$(admin shop "SELECT count(*) > 0 FROM dtx.steps WHERE gid = '$1' AND state = 'pending' AND attempt_count > 1")" = t ]; }
expect 30 waits 'order 3'
run shop app "SELECT name, node, state, attempt_count, left(error, 60) AS error FROM dtx.steps WHERE gid = 'order 3' ORDER BY step;"
run shop app "SELECT node, state, failure_count FROM dtx.nodes ORDER BY node;"
show_command 'start payment'
start=$(now_ms)
server_start payment
answers=$(now_ms)
expect 60 state_is 'order 3' committed
say "It answers after $((answers - start)) ms, and $(($(now_ms) - answers)) ms later the order is done. Nobody did anything."
draw 'order 3'

# ---------------------------------------------------------------------------
heading '4. The coordinator is killed half-way'
say 'So that the crash hits the right moment, this demo locks the bicycles: the step "take" waits.'
quietly stock postgres 'BEGIN;'
quietly stock postgres 'SELECT FROM item FOR UPDATE;'
run shop app "SELECT dtx.saga_start('order', '$(order 4)', gid => 'order 4');"
taking() { [ "$(admin stock "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND wait_event_type = 'Lock'")" = 1 ]; }
expect 30 taking
run shop app "SELECT name, node, state FROM dtx.steps WHERE gid = 'order 4' ORDER BY step;"
show_command 'kill -9 all processes of shop'
server_kill9 shop
close_session shop app
close_session shop postgres
say 'The bicycles are unlocked: the statement that had been sent is executed, or not; the shop cannot know.'
quietly stock postgres 'COMMIT;'
show_command 'start shop'
start=$(now_ms)
server_start shop
answers=$(now_ms)
expect 60 state_is 'order 4' committed
say "It answers after $((answers - start)) ms, and $(($(now_ms) - answers)) ms later the order is done: the step was sent again, and" \
	'applied once, because stock remembers what it has applied.'
draw 'order 4'

# ---------------------------------------------------------------------------
heading '5. Does it all add up?'
# Asked behind dtx's back, on every server by itself.
orders=$(admin shop "SELECT count(*) FROM orders WHERE state = 'done'")
refused=$(admin shop "SELECT count(*) FROM orders WHERE state = 'refused'")
all=$(admin shop 'SELECT count(*) FROM orders')
alice=$(admin payment "SELECT balance FROM account WHERE owner = 'alice'")
earned=$(admin payment "SELECT balance FROM account WHERE owner = 'shop'")
points=$(admin points 'SELECT points FROM wallet')
left=$(admin stock 'SELECT available FROM item')
open=$(admin shop 'SELECT count(*) FROM dtx.transactions WHERE finished_at IS NULL')
say "  shop: $orders orders done, $refused refused, of $all" \
	"  payment: alice $alice + shop $earned = $((alice + earned)), and it was 1000 + 0 = 1000" \
	"  points: $points, and $orders orders of 200 give $((orders * 20))" \
	"  stock: $left left of 3; $((3 - left)) were sold" \
	"  sagas left open: $open"
if ((orders == 3 && refused == 1 && all == 4 && alice + earned == 1000 && earned == orders * 200 &&
	points == orders * 20 && 3 - left == orders && open == 0)); then
	good '  Every order is whole, or as if it had never been.'
	demo_end 0
else
	say "$red  THIS DOES NOT ADD UP.$off"
	demo_end 1
fi
