SET NAMES utf8mb4;
SET SESSION autocommit = 1;
-- Every routine keeps the sql_mode of the moment it is made. Not strict: a value too long is cut, not lost.
SET SESSION sql_mode = 'NO_ENGINE_SUBSTITUTION';
SET SESSION lock_wait_timeout = 2;
SET SESSION innodb_lock_wait_timeout = 2;
-- In this level INSERT ... SELECT takes no locks on the rows it reads.
SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;
