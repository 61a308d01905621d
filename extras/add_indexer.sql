-- cdc_indexer for DCM4CHEE 2.x: records every study of the archive in one table, study_service.
--
--   mysql pacsdb < add_indexer.sql        (pacsdb: the archive's database; as root, or see "Rights")
--
-- What it adds, and nothing else:
--   view       indexer_study      a study as the central index wants it; the only place that knows the archive's tables
--   table      study_service      one row for each study that was stored, changed or deleted
--   procedures indexer_process    copies one study from the view into the table
--              indexer_prune      deletes old rows of the table
--   triggers   indexer_study_insert, indexer_study_update, indexer_study_delete, indexer_patient_update,
--              indexer_row        numbers and dates the rows of study_service
--   event      indexer_prune      every night: rows older than 400 days (needs event_scheduler = ON)
--   accounts   'indexer_definer'@'localhost' and 'indexer_trigger'@'localhost': nobody logs in with them (locked from
--              MySQL 5.7.6 and MariaDB 10.4.2 on; before, a password that nobody knows). The procedures and the
--              triggers run with their rights.
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
-- NEVER DROP 'indexer_trigger'@'localhost' while the triggers exist: the server then refuses to store studies (error
-- 1449). For the same reason run this script, or remove_indexer.sql, on a server into which you restored a dump of the
-- archive, before the archive is started there: a dump carries the triggers, but not the accounts.
--
-- To undo it: remove_indexer.sql.
--
-- Coming from the old client (cron job, one-column study_service, trigger indexer_process): stop its cron job first. Its trigger is
-- replaced, its table converted; what was still queued is recorded again.
--
-- Rights: root has them all. Another account needs ALL on the archive's database, CREATE USER, SUPER (from
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

-- any archive, 1 (docs/other-pacs.md takes what lies between these lines)
SET NAMES utf8mb4;
SET SESSION autocommit = 1;
-- Every routine keeps the sql_mode of the moment it is made. Not strict: a value too long is cut, not lost.
SET SESSION sql_mode = 'NO_ENGINE_SUBSTITUTION';
SET SESSION lock_wait_timeout = 2;
SET SESSION innodb_lock_wait_timeout = 2;
-- In this level INSERT ... SELECT takes no locks on the rows it reads.
SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;
-- end

-- ---------------------------------------------------------------------------------------------------------------
-- 1. Is this a DCM4CHEE 2.x archive? If a table or column is missing, the script ends here; nothing is changed yet.
-- ---------------------------------------------------------------------------------------------------------------
SELECT s.pk, s.patient_fk, s.study_iuid, s.study_datetime, s.accession_no, s.study_desc, s.mods_in_study, s.num_series,
       s.num_instances, p.pk, p.pat_id, p.pat_id_issuer, p.pat_name
  FROM study s JOIN patient p ON p.pk = s.patient_fk LIMIT 0;

-- ---------------------------------------------------------------------------------------------------------------
-- 2. The two accounts, and their rights on the archive's tables. The other rights follow where the objects are made.
-- ---------------------------------------------------------------------------------------------------------------
-- any archive, 1
DROP PROCEDURE IF EXISTS indexer_install_account;
DELIMITER //
CREATE PROCEDURE indexer_install_account(IN account VARCHAR(80) CHARACTER SET utf8mb4)
BEGIN
  IF NOT EXISTS (SELECT 1 FROM information_schema.USER_PRIVILEGES WHERE GRANTEE = account) THEN
    SET @indexer_sql = CONCAT('CREATE USER ', account, ' IDENTIFIED BY ''',
                              SHA2(CONCAT(UUID(), RAND(), UUID_SHORT(), RAND()), 256), '-aZ''');
    PREPARE indexer_statement FROM @indexer_sql;
    EXECUTE indexer_statement;
    DEALLOCATE PREPARE indexer_statement;
    SET @indexer_sql = NULL;
  END IF;
END//
DELIMITER ;
CALL indexer_install_account('''indexer_definer''@''localhost''');
CALL indexer_install_account('''indexer_trigger''@''localhost''');
DROP PROCEDURE indexer_install_account;
/*!50706 ALTER USER 'indexer_definer'@'localhost' ACCOUNT LOCK */;
/*!50706 ALTER USER 'indexer_trigger'@'localhost' ACCOUNT LOCK */;
/*M!100402 ALTER USER 'indexer_definer'@'localhost' ACCOUNT LOCK */;
/*M!100402 ALTER USER 'indexer_trigger'@'localhost' ACCOUNT LOCK */;
GRANT EVENT ON * TO 'indexer_definer'@'localhost';
-- end

GRANT SELECT ON study TO 'indexer_definer'@'localhost';
GRANT SELECT ON patient TO 'indexer_definer'@'localhost';
GRANT SELECT, TRIGGER ON study TO 'indexer_trigger'@'localhost';
GRANT SELECT, TRIGGER ON patient TO 'indexer_trigger'@'localhost';

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
CREATE OR REPLACE ALGORITHM = MERGE DEFINER = 'indexer_definer'@'localhost' SQL SECURITY DEFINER
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
  FROM study s STRAIGHT_JOIN patient p ON p.pk = s.patient_fk;

-- any archive, 2
DROP TABLE IF EXISTS study_service_new;
CREATE TABLE study_service_new (
  id                BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'UUID_SHORT(): never given twice, whatever is restored',
  operation         VARCHAR(16) NOT NULL COMMENT 'stored, changed, deleted, patient',
  patient_pk        BIGINT NULL,
  patient_id        VARCHAR(250) NULL,
  patient_name      VARCHAR(250) NULL,
  study_pk          BIGINT NULL COMMENT '0 in a row that stands for all studies of the patient',
  study_iuid        VARCHAR(250) NULL,
  study_datetime    DATETIME NULL,
  study_description VARCHAR(250) NULL,
  study_modality    VARCHAR(250) NULL,
  study_series      INT NULL,
  study_instances   INT NULL,
  accession_no      VARCHAR(250) NULL,
  patient_id_issuer VARCHAR(250) NULL,
  recorded_at       DATETIME(6) NOT NULL COMMENT 'UTC',
  PRIMARY KEY (id),
  KEY study_pk (study_pk),
  KEY recorded_at (recorded_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

DROP PROCEDURE IF EXISTS indexer_install_table;
DELIMITER //
CREATE PROCEDURE indexer_install_table()
BEGIN
  DECLARE tables_found, columns_found INT;
  SELECT COUNT(*) INTO tables_found FROM information_schema.TABLES
   WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'study_service';
  SELECT COUNT(*) INTO columns_found FROM information_schema.COLUMNS
   WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'study_service' AND COLUMN_NAME = 'id';
  IF tables_found = 0 THEN
    RENAME TABLE study_service_new TO study_service;
  ELSEIF columns_found = 0 THEN
    -- The old client's queue. Both tables change places in one step: before it nothing has changed, after it all is there.
    INSERT INTO study_service_new (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
        study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
      SELECT UUID_SHORT(), 'stored', v.patient_pk, v.patient_id, v.patient_name, v.study_pk, v.study_iuid, v.study_datetime,
             v.study_description, v.study_modality, v.study_series, v.study_instances, v.accession_no, v.patient_id_issuer,
             UTC_TIMESTAMP(6)
        FROM study_service q JOIN indexer_study v ON v.study_pk = q.study_pk;
    DROP TABLE IF EXISTS study_service_old;
    RENAME TABLE study_service TO study_service_old, study_service_new TO study_service;
  END IF;
  DROP TABLE IF EXISTS study_service_new;
  DROP TABLE IF EXISTS study_service_old;
END//
DELIMITER ;
CALL indexer_install_table();
DROP PROCEDURE indexer_install_table;

GRANT SELECT ON indexer_study TO 'indexer_definer'@'localhost';
GRANT SELECT, INSERT, DELETE ON study_service TO 'indexer_definer'@'localhost';
GRANT SELECT, INSERT, UPDATE, TRIGGER ON study_service TO 'indexer_trigger'@'localhost';

-- ---------------------------------------------------------------------------------------------------------------
-- 6. Procedures and the event.
-- ---------------------------------------------------------------------------------------------------------------
DROP PROCEDURE IF EXISTS indexer_process;
DROP PROCEDURE IF EXISTS indexer_prune;
DROP EVENT IF EXISTS indexer_prune;

DELIMITER //
-- SELECT ... INTO and INSERT ... VALUES instead of INSERT ... SELECT: that would lock the archive's rows.
-- A study that the view doesn't have (no patient yet) is not recorded. For 'patient' the number is the patient's.
--
-- UUID_SHORT() counts from the second in which the server was started. Two starts in one second (or at one time of a clock that is
-- wrong at every boot) give the same numbers: a row whose number is taken gets one that says its own second instead, beyond all
-- seconds of a start, and should that be taken too, any.
CREATE DEFINER = 'indexer_definer'@'localhost' PROCEDURE indexer_process(IN the_study_pk BIGINT, IN the_operation VARCHAR(16))
  MODIFIES SQL DATA SQL SECURITY DEFINER
BEGIN
  DECLARE new_id BIGINT UNSIGNED DEFAULT UUID_SHORT();
  DECLARE tries, refusals INT DEFAULT 0;
  DECLARE found_patient_pk, found_study_pk BIGINT;
  DECLARE found_series, found_instances INT;
  DECLARE found_datetime DATETIME;
  DECLARE found_patient_id, found_patient_name, found_iuid, found_description, found_modality, found_accession_no,
          found_issuer VARCHAR(250) CHARACTER SET utf8mb4;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  DECLARE CONTINUE HANDLER FOR 1062 SET refusals = refusals + 1;
  IF the_operation = 'patient' THEN
    SET found_patient_pk = the_study_pk, found_study_pk = 0;
  ELSE
    SELECT patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime, study_description, study_modality,
           study_series, study_instances, accession_no, patient_id_issuer
      INTO found_patient_pk, found_patient_id, found_patient_name, found_study_pk, found_iuid, found_datetime, found_description,
           found_modality, found_series, found_instances, found_accession_no, found_issuer
      FROM indexer_study WHERE study_pk = the_study_pk;
  END IF;
  IF found_study_pk IS NOT NULL THEN
    REPEAT
      IF refusals > 0 THEN
        -- One byte of server_id, four of the second, three of the count.
        SET new_id = (new_id & 0xFF00000000FFFFFF)
                     | ((IF(refusals = 1, UNIX_TIMESTAMP(), FLOOR(RAND() * 0x80000000)) | 0x80000000) << 24);
      END IF;
      SET tries = tries + 1;
      INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
          study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
        VALUES (new_id, the_operation, found_patient_pk, found_patient_id, found_patient_name, found_study_pk, found_iuid,
          found_datetime, found_description, found_modality, found_series, found_instances, found_accession_no, found_issuer,
          UTC_TIMESTAMP(6));
    UNTIL refusals < tries OR tries = 5 END REPEAT;
  END IF;
END//

-- Row by row by primary key, and READ COMMITTED: a range would lock the gap into which the archive's next row goes.
CREATE DEFINER = 'indexer_definer'@'localhost' PROCEDURE indexer_prune(IN days_to_keep INT)
  MODIFIES SQL DATA SQL SECURITY DEFINER
BEGIN
  DECLARE rows_left INT DEFAULT 1;
  WHILE rows_left DO
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;
    BEGIN
      DECLARE old_id BIGINT UNSIGNED;
      DECLARE old_ids CURSOR FOR SELECT id FROM study_service
        WHERE recorded_at < UTC_TIMESTAMP(6) - INTERVAL days_to_keep DAY ORDER BY recorded_at LIMIT 1000;
      DECLARE EXIT HANDLER FOR NOT FOUND BEGIN END;
      SET rows_left = 0;
      OPEN old_ids;
      LOOP
        FETCH old_ids INTO old_id;
        DELETE FROM study_service WHERE id = old_id;
        SET rows_left = 1;
      END LOOP;
    END;
    COMMIT;
    DO SLEEP(0.1 * rows_left);
  END WHILE;
END//

CREATE DEFINER = 'indexer_definer'@'localhost' EVENT indexer_prune
  ON SCHEDULE EVERY 1 DAY STARTS CURRENT_DATE + INTERVAL 27 HOUR
  COMMENT 'cdc_indexer: deletes rows of study_service older than 400 days'
  DO CALL indexer_prune(400)//
DELIMITER ;

GRANT EXECUTE ON PROCEDURE indexer_process TO 'indexer_definer'@'localhost';
GRANT EXECUTE ON PROCEDURE indexer_prune TO 'indexer_definer'@'localhost';
GRANT EXECUTE ON PROCEDURE indexer_process TO 'indexer_trigger'@'localhost';
-- end

-- ---------------------------------------------------------------------------------------------------------------
-- 7. Triggers on. Each has a handler of its own: an error in or below it never reaches the archive. (A handler in the procedure
--    could not catch that the procedure itself is missing.)
--    Texts are compared as bytes: for the column's collation PEÑA and PENA may be the same.
-- ---------------------------------------------------------------------------------------------------------------
-- any archive, 2
DROP TRIGGER IF EXISTS indexer_row;
DELIMITER //
CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_row BEFORE INSERT ON study_service FOR EACH ROW
BEGIN
  IF NEW.id = 0 THEN
    SET NEW.id = UUID_SHORT();
  END IF;
  IF NEW.recorded_at IS NULL THEN
    SET NEW.recorded_at = UTC_TIMESTAMP(6);
  END IF;
END//
DELIMITER ;
-- end

DELIMITER //
CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_study_insert AFTER INSERT ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF NEW.patient_fk IS NOT NULL THEN
    CALL indexer_process(NEW.pk, 'stored');
  END IF;
END//

-- DCM4CHEE 2.x inserts a study without its patient, and sets the patient in the same transaction.
CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_study_update AFTER UPDATE ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF NEW.patient_fk IS NOT NULL THEN
    IF OLD.patient_fk IS NULL THEN
      CALL indexer_process(NEW.pk, 'stored');
    ELSEIF NOT (OLD.patient_fk = NEW.patient_fk
                AND OLD.num_instances <=> NEW.num_instances
                AND OLD.num_series <=> NEW.num_series
                AND OLD.study_datetime <=> NEW.study_datetime
                AND CAST(OLD.study_iuid AS BINARY) <=> CAST(NEW.study_iuid AS BINARY)
                AND CAST(OLD.study_desc AS BINARY) <=> CAST(NEW.study_desc AS BINARY)
                AND CAST(OLD.mods_in_study AS BINARY) <=> CAST(NEW.mods_in_study AS BINARY)
                AND CAST(OLD.accession_no AS BINARY) <=> CAST(NEW.accession_no AS BINARY)) THEN
      CALL indexer_process(NEW.pk, 'changed');
    END IF;
  END IF;
END//

-- BEFORE, because afterwards the view doesn't have the study any more.
CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_study_delete BEFORE DELETE ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF OLD.patient_fk IS NOT NULL THEN
    CALL indexer_process(OLD.pk, 'deleted');
  END IF;
END//

-- One row for the patient; the service finds the patient's studies. Recording 5,000 studies here would cost half a second.
CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_patient_update AFTER UPDATE ON patient FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF NOT (CAST(OLD.pat_id AS BINARY) <=> CAST(NEW.pat_id AS BINARY)
          AND CAST(OLD.pat_id_issuer AS BINARY) <=> CAST(NEW.pat_id_issuer AS BINARY)
          AND CAST(OLD.pat_name AS BINARY) <=> CAST(NEW.pat_name AS BINARY)) THEN
    CALL indexer_process(NEW.pk, 'patient');
  END IF;
END//
DELIMITER ;

-- ---------------------------------------------------------------------------------------------------------------
-- 8. Record what happened while the triggers were off: studies that are new or look different, studies that are gone.
--    A study recorded between part 3 and part 4 is recorded once more: it may have changed, or gone, since.
-- ---------------------------------------------------------------------------------------------------------------
SET @indexer_taken_at = (SELECT COALESCE(MIN(taken_at), UTC_TIMESTAMP(6)) FROM indexer_window);

INSERT IGNORE INTO indexer_window (study_pk, study_iuid, checksum, taken_at)
  SELECT study_pk, study_iuid, 0, recorded_at
    FROM study_service WHERE recorded_at >= @indexer_taken_at AND operation IN ('stored', 'changed');

-- One that was recorded before part 3 read, but committed after, and is gone: neither part 3 nor a trigger saw that.
INSERT IGNORE INTO indexer_window (study_pk, study_iuid, checksum, taken_at)
  SELECT o.study_pk, MAX(o.study_iuid), 0, MAX(o.recorded_at)
    FROM study_service o
    LEFT JOIN study s ON s.pk = o.study_pk
   WHERE o.recorded_at >= @indexer_taken_at - INTERVAL 1 DAY AND s.pk IS NULL
         AND o.operation IN ('stored', 'changed', 'deleted')
   GROUP BY o.study_pk
  HAVING SUM(o.operation = 'deleted') = 0;

INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
    study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
  SELECT STRAIGHT_JOIN
         UUID_SHORT(), IF(w.study_pk IS NULL, 'stored', 'changed'), v.patient_pk, v.patient_id, v.patient_name, v.study_pk,
         v.study_iuid, v.study_datetime, v.study_description, v.study_modality, v.study_series, v.study_instances, v.accession_no,
         v.patient_id_issuer, UTC_TIMESTAMP(6)
    FROM indexer_window_now n
    LEFT JOIN indexer_window w ON w.study_pk = n.study_pk
    JOIN indexer_study v ON v.study_pk = n.study_pk
   WHERE w.study_pk IS NULL OR w.checksum <> n.checksum;

-- Not what a trigger recorded already, and not if the same UID was stored again meanwhile: the central index knows a study by
-- its UID. In tables of their own, because optimizers read study_service once for each deleted study else.
DROP TEMPORARY TABLE IF EXISTS indexer_window_ended, indexer_window_stored;
CREATE TEMPORARY TABLE indexer_window_ended (study_pk BIGINT NOT NULL PRIMARY KEY) ENGINE = InnoDB;
CREATE TEMPORARY TABLE indexer_window_stored (study_pk BIGINT NOT NULL, study_iuid VARCHAR(250) NULL, KEY study_iuid (study_iuid(64)))
  ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
INSERT IGNORE INTO indexer_window_ended
  SELECT study_pk FROM study_service WHERE recorded_at >= @indexer_taken_at AND operation = 'deleted';
INSERT INTO indexer_window_stored
  SELECT study_pk, study_iuid FROM study_service WHERE recorded_at >= @indexer_taken_at AND operation = 'stored';

INSERT INTO study_service (id, operation, study_pk, study_iuid, recorded_at)
  SELECT UUID_SHORT(), 'deleted', w.study_pk, w.study_iuid, UTC_TIMESTAMP(6)
    FROM indexer_window w
    LEFT JOIN study s ON s.pk = w.study_pk
    LEFT JOIN indexer_window_ended e ON e.study_pk = w.study_pk
   WHERE s.pk IS NULL AND e.study_pk IS NULL
     AND NOT EXISTS (SELECT 1 FROM indexer_window_stored o WHERE o.study_iuid = w.study_iuid AND o.study_pk <> w.study_pk);
DROP TEMPORARY TABLE indexer_window_ended, indexer_window_stored;

DROP VIEW indexer_window_now;
DROP TABLE indexer_window;

-- ---------------------------------------------------------------------------------------------------------------
-- 9. Try it, and take it back: a trigger would not say what is wrong.
-- ---------------------------------------------------------------------------------------------------------------
SELECT MAX(pk) INTO @indexer_newest FROM study;
START TRANSACTION;
CALL indexer_process(@indexer_newest, 'stored');
ROLLBACK;

SELECT CONCAT('cdc_indexer is installed in ', DATABASE(), '.') AS ''
UNION ALL
SELECT 'event_scheduler is not ON: rows older than 400 days stay until it is.' FROM DUAL WHERE @@event_scheduler <> 'ON'
UNION ALL
SELECT 'binlog_format is not ROW: the archive may wait for locks. SET GLOBAL binlog_format = ROW, and put it into my.cnf.'
  FROM DUAL WHERE @@GLOBAL.log_bin AND @@GLOBAL.binlog_format <> 'ROW';
