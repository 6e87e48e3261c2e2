-- Named so that it comes first: what a running server needs for "make
-- installcheck".  All other tests end at once, as passed, when this one fails.
\getenv here PG_ABS_SRCDIR
\set check :here '/sql/common/check.psql'
\set ECHO none
\i :check
\set ECHO all
\if :skip
\set ECHO none
\echo
\echo The settings of this server are not those that the tests need:
\echo :missing
\echo After that, run all the tests again: none of them has done anything.
\echo
\quit
\endif
\echo all settings are as the tests need them
