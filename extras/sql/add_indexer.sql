-- cdc_indexer for DCM4CHEE 2.x: records every study of the archive in one table, study_service.
--
--   cdc-indexer sql | mysql pacsdb        (pacsdb: the archive's database; as root, or see "Rights")
--   mysql pacsdb < FILE                   (the same, where the program isn't: FILE is what `cdc-indexer sql` has printed)
--
-- What it adds, and nothing else:
--   view       indexer_study      a study as the central index wants it; the only place that knows the archive's tables
--   table      study_service      one row for each study that was stored, changed or deleted
--   procedures indexer_process    copies one study from the view into the table
--              indexer_prune      deletes old rows of the table
--   triggers   indexer_study_insert, indexer_study_update, indexer_study_delete, indexer_patient_update,
--              indexer_row        numbers and dates the rows of study_service
--   event      indexer_prune      every night: rows older than 400 days (needs event_scheduler = ON)
--   account    'indexer_definer'@'localhost': nobody logs in with it (locked from MySQL 5.7.6 and MariaDB 10.4.2 on; before, a
--              password that nobody knows). The nightly event runs with its rights.
--
-- The archive may be in use meanwhile. Every statement gives up after 2 seconds when it has to wait for a lock; the
-- archive then goes on as before, and you run the script again. As with any CREATE TRIGGER on a table in use, a
-- transaction that has changed a patient and comes to a study in just that instant may be told to try again (error
-- 1213): choose a quiet hour. It can be run as often as you like: a run that was
-- interrupted is completed, and what was stored while the triggers were off is recorded at the end.
-- To know that, it reads all studies once before and once after, without a lock (some seconds for a million studies).
--
-- What it costs: 0.15 to 0.3 ms for a study that is stored or changed, next to nothing for any other statement. A trigger never
-- makes the archive fail or wait: it takes no lock on the archive's rows, and when study_service or a procedure is broken or missing,
-- the study is stored as if there were no trigger.
--
-- The binary log, if it is on, must have binlog_format = ROW. With MIXED or STATEMENT the server takes locks on what a
-- trigger reads when the archive's sessions are in REPEATABLE READ; the script says so at its end.
--
-- WHOSE RIGHTS. A server refuses every change of a table whose trigger belongs to an account that isn't there (error 1449) or may not
-- do it (1142). So the triggers belong to the account that the archive itself logs in with: wherever the archive can work, they
-- can. It is the one account with rights on this database, root and its like left out; if there are several, the script
-- ends before it has changed anything, and shows the line to put before the file:
--   SET @indexer_definer = 'pacs@%';
-- A dump of the archive carries the triggers, but no accounts: on the server where you restore it the archive stores as soon as
-- its own account is there with its rights. Run this script there as well; without its other parts nothing is recorded.
--
-- To undo it: cdc-indexer sql --remove | mysql pacsdb
--
-- Coming from the old client (cron job, one-column study_service, trigger indexer_process): stop its cron job first. Its trigger is
-- replaced, its table converted; what was still queued is recorded again.
--
-- Rights: root has them all. Another account needs ALL on the archive's database with GRANT OPTION, CREATE USER, SUPER (from
-- MySQL 8 on SET_USER_ID or SET_ANY_DEFINER instead; where the binary log is on, also
-- log_bin_trust_function_creators = 1) and SELECT on the database mysql.
--
-- The account of the service is made by hand, with a password of your own:
--   CREATE USER 'indexer'@'localhost' IDENTIFIED BY '...';
--   GRANT SELECT ON pacsdb.study_service TO 'indexer'@'localhost';
--   GRANT SELECT ON pacsdb.indexer_study TO 'indexer'@'localhost';
--   GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'indexer'@'localhost';
--
-- For MySQL 5.6 and later and MariaDB 10.0 and later: that is why it does without IF NOT EXISTS and OR REPLACE in places.
-- For who develops it: it is made of the parts in extras/sql by `python -m extras.sql`.

-- any archive, 1 (docs/other-pacs.md takes what lies between these lines)
-- %include session.sql
-- end

-- ---------------------------------------------------------------------------------------------------------------
-- 1. Is this a DCM4CHEE 2.x archive? If a table or column is missing, the script ends here; nothing is changed yet.
-- ---------------------------------------------------------------------------------------------------------------
SELECT s.pk, s.patient_fk, s.study_iuid, s.study_datetime, s.accession_no, s.study_desc, s.mods_in_study, s.num_series,
       s.num_instances, p.pk, p.pat_id, p.pat_id_issuer, p.pat_name
  FROM study s JOIN patient p ON p.pk = s.patient_fk LIMIT 0;

SET @indexer_file = 'add_indexer.sql';
-- For which tables this is made: kept as the comment of study_service.
SET @indexer_made_for = 'DCM4CHEE 2';

-- any archive, 1
-- %include definer.sql
-- end

-- ---------------------------------------------------------------------------------------------------------------
-- 2. The account of the nightly event, and what the triggers' account lacks of rights on the archive's tables.
-- ---------------------------------------------------------------------------------------------------------------
-- any archive, 1
-- %include account.sql
-- end

CALL indexer_install_rights('SELECT, TRIGGER', 'study');
CALL indexer_install_rights('SELECT, TRIGGER', 'patient');

-- ---------------------------------------------------------------------------------------------------------------
-- 3. Remember how each study looks now, to find out in part 8 what happened while the triggers were off.
--    The table indexer_window exists only until then; one left by an interrupted run is kept, it knows more.
-- ---------------------------------------------------------------------------------------------------------------
CREATE OR REPLACE ALGORITHM = MERGE SQL SECURITY INVOKER VIEW indexer_window_now AS
SELECT s.pk AS study_pk,
       s.study_iuid AS study_iuid,
       CRC32(CONCAT_WS('|', s.patient_fk, CRC32(s.study_iuid), IFNULL(s.study_datetime, '-'), s.num_series, s.num_instances,
                       IFNULL(CRC32(s.accession_no), '-'), IFNULL(CRC32(s.study_desc), '-'), IFNULL(CRC32(s.mods_in_study), '-'),
                       IFNULL(CRC32(p.pat_id), '-'), IFNULL(CRC32(p.pat_id_issuer), '-'), IFNULL(CRC32(p.pat_name), '-'))) AS checksum
  FROM study s STRAIGHT_JOIN patient p ON p.pk = s.patient_fk;

DROP PROCEDURE IF EXISTS indexer_install_window;
DELIMITER //
CREATE PROCEDURE indexer_install_window()
BEGIN
  IF NOT EXISTS (SELECT 1 FROM information_schema.TABLES
                  WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'indexer_window') THEN
    DROP TABLE IF EXISTS indexer_window_new;
    CREATE TABLE indexer_window_new (
      study_pk   BIGINT NOT NULL PRIMARY KEY,
      study_iuid VARCHAR(250) NULL,
      checksum   INT UNSIGNED NOT NULL,
      taken_at   DATETIME(6) NOT NULL
    ) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
    INSERT INTO indexer_window_new (study_pk, study_iuid, checksum, taken_at)
      SELECT study_pk, study_iuid, checksum, UTC_TIMESTAMP(6) FROM indexer_window_now;
    RENAME TABLE indexer_window_new TO indexer_window;
  END IF;
END//
DELIMITER ;
CALL indexer_install_window();
DROP PROCEDURE indexer_install_window;

-- ---------------------------------------------------------------------------------------------------------------
-- 4. Triggers off, before anything that they use is touched. indexer_process was the old client's trigger.
-- ---------------------------------------------------------------------------------------------------------------
DROP TRIGGER IF EXISTS indexer_process;
DROP TRIGGER IF EXISTS indexer_study_insert;
DROP TRIGGER IF EXISTS indexer_study_update;
DROP TRIGGER IF EXISTS indexer_study_delete;
DROP TRIGGER IF EXISTS indexer_patient_update;

-- ---------------------------------------------------------------------------------------------------------------
-- 5. View and table.
-- ---------------------------------------------------------------------------------------------------------------
SET @indexer_sql = CONCAT('CREATE OR REPLACE ALGORITHM = MERGE DEFINER = ', @indexer_account, ' SQL SECURITY DEFINER
VIEW indexer_study AS
SELECT p.pk             AS patient_pk,
       p.pat_id         AS patient_id,
       p.pat_name       AS patient_name,
       s.pk             AS study_pk,
       s.study_iuid     AS study_iuid,
       s.study_datetime AS study_datetime,
       s.study_desc     AS study_description,
       s.mods_in_study  AS study_modality,
       s.num_series     AS study_series,
       s.num_instances  AS study_instances,
       s.accession_no   AS accession_no,
       p.pat_id_issuer  AS patient_id_issuer
  FROM study s STRAIGHT_JOIN patient p ON p.pk = s.patient_fk');
PREPARE indexer_statement FROM @indexer_sql;
EXECUTE indexer_statement;
DEALLOCATE PREPARE indexer_statement;

-- any archive, 2
-- %include table.sql

-- ---------------------------------------------------------------------------------------------------------------
-- 6. Procedures and the event; the trigger that numbers and dates rows; and a trial, before any trigger is on.
-- ---------------------------------------------------------------------------------------------------------------
-- %include procedures.sql

-- %include row_trigger.sql

-- %include trial.sql
-- end

-- ---------------------------------------------------------------------------------------------------------------
-- 7. Triggers on. Each has a handler of its own: an error in or below it never reaches the archive. (A handler in the procedure
--    could not catch that the procedure itself is missing.)
--    Texts are compared as bytes: for the column's collation PEÑA and PENA may be the same.
--    What a trigger reads it reads with SELECT ... INTO alone: a subquery in CALL, IF or SET reads with a lock, and would
--    make the archive wait.
-- ---------------------------------------------------------------------------------------------------------------
-- %triggers triggers_dcm4chee2.sql

-- ---------------------------------------------------------------------------------------------------------------
-- 8. Record what happened while the triggers were off: studies that are new or look different, studies that are gone.
--    A study recorded between part 3 and part 4 is recorded once more: it may have changed, or gone, since.
-- ---------------------------------------------------------------------------------------------------------------
-- %include window_record.sql
-- %include window_gone.sql

-- ---------------------------------------------------------------------------------------------------------------
-- 9. What is left over, and what there is to say.
-- ---------------------------------------------------------------------------------------------------------------
-- any archive, 3
-- %include old_accounts.sql

-- %include said.sql
-- end
