-- Databases of different encodings: text gets to a node, and back, as it is.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
\set ECHO errors
-- bank_a is LATIN1, and a coordinator of bank_b, too
\connect :home
SET client_min_messages = warning;
DROP DATABASE dtx_regression_a WITH (FORCE);
CREATE DATABASE dtx_regression_a TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C';
ALTER DATABASE dtx_regression_a SET lc_messages TO 'C';
\set schema 'CREATE TABLE person (name text CHECK (name <> ''Böse''), note jsonb); CREATE FUNCTION refuse() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION ''Größe paßt nicht'' USING DETAIL = ''Übermaß''; END $$'
\connect :bank_a
\encoding UTF8
SET client_min_messages = warning;
CREATE EXTENSION dtx CASCADE;
DO $$ BEGIN
    EXECUTE format('CREATE SERVER bank_b FOREIGN DATA WRAPPER dblink_fdw OPTIONS (
        host ''127.0.0.1'', port %L, dbname ''dtx_regression_b'')', current_setting('port'));
END $$;
CREATE USER MAPPING FOR regress_dtx_app SERVER bank_b OPTIONS (user 'regress_dtx_app', password 'regress-app');
GRANT USAGE ON FOREIGN SERVER bank_b TO regress_dtx_app;
GRANT CREATE ON SCHEMA public TO regress_dtx_app;
SET SESSION AUTHORIZATION regress_dtx_app;
:schema;
\connect :bank_b
\encoding UTF8
SET client_min_messages = warning;
CREATE EXTENSION dtx CASCADE;
SET SESSION AUTHORIZATION regress_dtx_app;
:schema;
CREATE FUNCTION infinite() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'bis ∞'; END $$;
\connect :coordinator
\encoding UTF8
SET SESSION AUTHORIZATION regress_dtx_app;
CREATE TABLE person (name text, note jsonb);
\set ECHO all
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
\set encoding :here '/sql/common/encoding.psql'

--
-- From UTF8 to LATIN1
--
SHOW server_encoding;
\set node bank_a
\i :encoding
-- what LATIN1 lacks is refused over there
SELECT dtx.exec('bank_a', 'INSERT INTO person VALUES ($1)', ARRAY['∞']);

--
-- and from LATIN1 to UTF8
--
\connect :bank_a
\encoding UTF8
SET SESSION AUTHORIZATION regress_dtx_app;
SHOW server_encoding;
\set node bank_b
\i :encoding
-- what LATIN1 lacks cannot come back
SELECT dtx.exec('bank_b', 'SELECT infinite()');
SELECT * FROM dtx.query('bank_b', 'SELECT chr(8734)') AS t(t text);
\pset tuples_only off
\pset format aligned
\i :end
