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

SET @indexer_file = 'add_indexer.sql';
-- For which tables this is made: kept as the comment of study_service.
SET @indexer_made_for = 'DCM4CHEE 2';

-- any archive, 1
-- What can't work is found before anything is changed. The triggers need 192 kB of stack (thread_stack) at least: with less,
-- every transaction of the archive would fail with error 1436.
SET @indexer_problem = IF(@@GLOBAL.thread_stack < 196608,
  CONCAT('thread_stack is ', @@GLOBAL.thread_stack DIV 1024, 'K: put thread_stack = 256K into my.cnf and restart the server'), NULL);

-- Whose rights have the triggers? Those of the account that the archive itself logs in with: without that one it can't work anyway.
-- @indexer_definer names it ('pacs@%'); else it is the one account that may INSERT into this database, not counting root and
-- its like. Only where nobody else could be the archive (it logs in as root) is it root.
SET @indexer_candidate = NULL, @indexer_found = 0,
    @indexer_definer = NULLIF(TRIM(REPLACE(REPLACE(REPLACE(@indexer_definer, '''', ''), '"', ''), '`', '')), '');
SELECT COUNT(DISTINCT grantee), GROUP_CONCAT(DISTINCT grantee ORDER BY grantee SEPARATOR ' ')
  INTO @indexer_found, @indexer_candidate
  FROM (SELECT GRANTEE AS grantee FROM information_schema.SCHEMA_PRIVILEGES
         WHERE PRIVILEGE_TYPE = 'INSERT' AND DATABASE() LIKE TABLE_SCHEMA
        UNION
        SELECT GRANTEE FROM information_schema.TABLE_PRIVILEGES
         WHERE PRIVILEGE_TYPE = 'INSERT' AND TABLE_SCHEMA = DATABASE() AND TABLE_NAME <> 'study_service') may_insert
 WHERE TRIM(BOTH '''' FROM SUBSTRING_INDEX(grantee, '@', 1)) NOT IN ('', 'PUBLIC', 'indexer', 'indexer_definer', 'indexer_trigger', 'root', 'mysql', 'debian-sys-maint', 'rdsadmin',
         'mariadb.sys', 'mysql.sys', 'mysql.session', 'mysql.infoschema');
SELECT COUNT(DISTINCT GRANTEE), GROUP_CONCAT(DISTINCT GRANTEE ORDER BY GRANTEE SEPARATOR ' ')
  INTO @indexer_everywhere, @indexer_candidate_everywhere
  FROM information_schema.USER_PRIVILEGES
 WHERE PRIVILEGE_TYPE = 'INSERT'
   AND TRIM(BOTH '''' FROM SUBSTRING_INDEX(GRANTEE, '@', 1)) NOT IN ('', 'PUBLIC', 'indexer', 'indexer_definer', 'indexer_trigger', 'root', 'mysql', 'debian-sys-maint', 'rdsadmin',
           'mariadb.sys', 'mysql.sys', 'mysql.session', 'mysql.infoschema');
SET @indexer_candidate = IF(@indexer_found > 0, @indexer_candidate, @indexer_candidate_everywhere),
    @indexer_found = IF(@indexer_found > 0, @indexer_found, @indexer_everywhere);
SET @indexer_runs_as = CONCAT('''', SUBSTRING_INDEX(CURRENT_USER(), '@', 1), '''@''', SUBSTRING_INDEX(CURRENT_USER(), '@', -1), '''');
SET @indexer_root = @indexer_runs_as;
SELECT GRANTEE INTO @indexer_root FROM information_schema.USER_PRIVILEGES WHERE GRANTEE = '''root''@''localhost''' LIMIT 1;
SET @indexer_account = CASE
      WHEN @indexer_definer IS NULL AND @indexer_found = 1 THEN @indexer_candidate
      WHEN @indexer_definer IS NULL THEN @indexer_root
      WHEN LOCATE('@', @indexer_definer) = 0 THEN CONCAT('''', @indexer_definer, '''@''%''')
      ELSE CONCAT('''', LEFT(@indexer_definer, CHAR_LENGTH(@indexer_definer) - CHAR_LENGTH(SUBSTRING_INDEX(@indexer_definer, '@', -1)) - 1),
                  '''@''', SUBSTRING_INDEX(@indexer_definer, '@', -1), '''') END,
    @indexer_line = CONCAT('SET @indexer_definer = ''', REPLACE(SUBSTRING_INDEX(@indexer_candidate, ' ', 1), '''', ''), ''';');
SET @indexer_problem = CASE
      WHEN @indexer_problem IS NOT NULL THEN @indexer_problem
      WHEN @indexer_definer IS NULL AND @indexer_found > 1
        THEN CONCAT('nothing is changed; several accounts could be the archive: name the right one in a line before the file such as ',
                    @indexer_line)
      WHEN NOT EXISTS (SELECT 1 FROM information_schema.USER_PRIVILEGES WHERE GRANTEE = @indexer_account)
        THEN CONCAT('nothing is changed; there is no account ', REPLACE(@indexer_account, '''', ''),
                    ': name the one that the archive logs in with before the file: SET @indexer_definer = ''user@host'';') END;
-- Each in a row of its own: the client writes the end of a line inside a value as \n.
SELECT 'Nothing is changed. Which account does the archive log in with? One of these lines before the file says it:' AS ''
  FROM DUAL WHERE @indexer_definer IS NULL AND @indexer_found > 1
UNION ALL
SELECT CONCAT('SET @indexer_definer = ''', REPLACE(SUBSTRING_INDEX(SUBSTRING_INDEX(@indexer_candidate, ' ', n), ' ', -1), '''', ''), ''';')
  FROM (SELECT 1 AS n UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6) numbers
 WHERE @indexer_definer IS NULL AND @indexer_found > 1 AND n <= @indexer_found;
-- A mode of that name doesn't exist: the script ends here, with the problem as the server's message.
SET SESSION sql_mode = COALESCE(@indexer_problem, @@SESSION.sql_mode);

-- MySQL, and MariaDB before 10.6.2, take no account's name out of a variable when they make a trigger. There the triggers belong to
-- who runs this script, as it says DEFINER = CURRENT_USER (MySQL 8.0.29 and later: for the archive's usual account, pacs,
-- they are made once more below). For another: sed "s/DEFINER = CURRENT_USER/DEFINER = 'user'@'host'/" FILE | mysql pacsdb
SET @indexer_dynamic = FALSE;
/*M!100602 SET @indexer_dynamic = TRUE */;
-- end

-- ---------------------------------------------------------------------------------------------------------------
-- 2. The account of the nightly event, and what the triggers' account lacks of rights on the archive's tables.
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
DROP PROCEDURE indexer_install_account;
/*!50706 ALTER USER 'indexer_definer'@'localhost' ACCOUNT LOCK */;
/*M!100402 ALTER USER 'indexer_definer'@'localhost' ACCOUNT LOCK */;
GRANT EVENT ON * TO 'indexer_definer'@'localhost';

-- What the archive's account lacks of the rights that the triggers need, table by table; mostly it has all of them on its database.
DROP PROCEDURE IF EXISTS indexer_install_rights;
DELIMITER //
CREATE PROCEDURE indexer_install_rights(IN rights VARCHAR(60) CHARACTER SET utf8mb4, IN the_object VARCHAR(80) CHARACTER SET utf8mb4)
BEGIN
  DECLARE found INT;
  SELECT COUNT(DISTINCT PRIVILEGE_TYPE) INTO found
    FROM (SELECT PRIVILEGE_TYPE FROM information_schema.USER_PRIVILEGES WHERE GRANTEE = @indexer_account
          UNION ALL
          SELECT PRIVILEGE_TYPE FROM information_schema.SCHEMA_PRIVILEGES
           WHERE GRANTEE = @indexer_account AND DATABASE() LIKE TABLE_SCHEMA) has
   WHERE PRIVILEGE_TYPE IN ('SELECT', 'INSERT', 'UPDATE', 'TRIGGER', 'EXECUTE');
  IF found < 5 THEN
    SET @indexer_sql = CONCAT('GRANT ', rights, ' ON ', the_object, ' TO ', @indexer_account);
    PREPARE indexer_statement FROM @indexer_sql;
    EXECUTE indexer_statement;
    DEALLOCATE PREPARE indexer_statement;
  END IF;
END//
DELIMITER ;
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
DROP PROCEDURE IF EXISTS indexer_install_table;
DELIMITER //
CREATE PROCEDURE indexer_install_table()
BEGIN
  DECLARE tables_found, columns_found INT;
  SELECT COUNT(*) INTO tables_found FROM information_schema.TABLES
   WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'study_service';
  SELECT COUNT(*) INTO columns_found FROM information_schema.COLUMNS
   WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'study_service' AND COLUMN_NAME = 'id';
  IF columns_found = 0 THEN
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
  END IF;
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
  -- For which version of the archive's tables this was made: `check --admin` compares.
  IF NOT EXISTS (SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'study_service'
                    AND TABLE_COMMENT = COALESCE(@indexer_made_for, '')) THEN
    SET @indexer_sql = CONCAT('ALTER TABLE study_service COMMENT = ''', COALESCE(@indexer_made_for, ''), '''');
    PREPARE indexer_statement FROM @indexer_sql;
    EXECUTE indexer_statement;
    DEALLOCATE PREPARE indexer_statement;
  END IF;
END//
DELIMITER ;
CALL indexer_install_table();
DROP PROCEDURE indexer_install_table;

GRANT SELECT, DELETE ON study_service TO 'indexer_definer'@'localhost';
CALL indexer_install_rights('SELECT', 'indexer_study');
CALL indexer_install_rights('SELECT, INSERT, UPDATE, TRIGGER', 'study_service');

-- ---------------------------------------------------------------------------------------------------------------
-- 6. Procedures and the event; the trigger that numbers and dates rows; and a trial, before any trigger is on.
-- ---------------------------------------------------------------------------------------------------------------
DROP PROCEDURE IF EXISTS indexer_process;
DROP PROCEDURE IF EXISTS indexer_prune;
DROP EVENT IF EXISTS indexer_prune;

DELIMITER //
-- With the rights of who calls it: those of the triggers, which are the archive's own.
-- SELECT ... INTO and INSERT ... VALUES instead of INSERT ... SELECT: that would lock the archive's rows.
-- For 'patient' the number is the patient's. 'counted' is for images: recorded as 'changed' without the values, since counting at
-- each image would cost more and more. A study that the view doesn't have (its patient was committed after this
-- transaction's snapshot) is recorded in the same way; the service reads the view a moment later.
--
-- recorded_at is the time of the row: that of the statement (all that UTC_TIMESTAMP knows), and what went by since, such as waiting for
-- a lock. SYSDATE is in the session's time zone: where that changes to or from summer time meanwhile, the smaller of two
-- ways to subtract is right.
--
-- UUID_SHORT() counts from the second in which the server was started. Two starts in one second (or at one time of a clock that is
-- wrong at every boot) give the same numbers: a row whose number is taken gets one that says its own second instead, beyond all
-- seconds of a start, and should that be taken too, any.
CREATE PROCEDURE indexer_process(IN the_study_pk BIGINT, IN the_operation VARCHAR(16))
  MODIFIES SQL DATA SQL SECURITY INVOKER
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
  ELSEIF the_operation <> 'counted' THEN
    SELECT patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime, study_description, study_modality,
           study_series, study_instances, accession_no, patient_id_issuer
      INTO found_patient_pk, found_patient_id, found_patient_name, found_study_pk, found_iuid, found_datetime, found_description,
           found_modality, found_series, found_instances, found_accession_no, found_issuer
      FROM indexer_study WHERE study_pk = the_study_pk;
  END IF;
  IF found_study_pk IS NULL AND the_operation IN ('counted', 'stored', 'changed') THEN
    SET the_operation = 'changed';
    BEGIN
      -- Another archive than DCM4CHEE has other tables.
      DECLARE CONTINUE HANDLER FOR 1054, 1142, 1146 BEGIN END;
      SELECT pk, study_iuid INTO found_study_pk, found_iuid FROM study WHERE pk = the_study_pk AND patient_fk IS NOT NULL;
    END;
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
          UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),
            CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND);
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
  -- Rows of images ('changed' without values) that are a week old and have a later one of their study.
  SET rows_left = 1;
  WHILE rows_left DO
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;
    BEGIN
      DECLARE old_id BIGINT UNSIGNED;
      DECLARE old_ids CURSOR FOR SELECT o.id FROM study_service o
        WHERE o.recorded_at < UTC_TIMESTAMP(6) - INTERVAL 7 DAY AND o.recorded_at > UTC_TIMESTAMP(6) - INTERVAL 60 DAY
              AND o.operation = 'changed' AND o.patient_pk IS NULL
              AND EXISTS (SELECT 1 FROM study_service l WHERE l.study_pk = o.study_pk AND l.id > o.id)
        ORDER BY o.recorded_at LIMIT 1000;
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

GRANT EXECUTE ON PROCEDURE indexer_prune TO 'indexer_definer'@'localhost';
CALL indexer_install_rights('EXECUTE', 'PROCEDURE indexer_process');

-- For another archive than DCM4CHEE (docs/other-pacs.md): gives the triggers that are there to the archive's account, where the
-- server can do that.
-- CREATE OR REPLACE: there is no moment without the trigger.
-- The catalogue is read once: MariaDB makes a file for such an answer, which another server that starts on the machine may delete.
DROP PROCEDURE IF EXISTS indexer_install_definer;
DELIMITER //
CREATE PROCEDURE indexer_install_definer()
BEGIN
  DECLARE statements LONGTEXT CHARACTER SET utf8mb4;
  DECLARE separator_text VARCHAR(40) CHARACTER SET utf8mb4 DEFAULT CONCAT('-- ', UUID());
  IF @indexer_dynamic THEN
    SET SESSION group_concat_max_len = 1000000;
    SELECT GROUP_CONCAT('CREATE OR REPLACE DEFINER = ', @indexer_account,
                        ' TRIGGER ', TRIGGER_NAME, ' ', ACTION_TIMING, ' ', EVENT_MANIPULATION, ' ON `', EVENT_OBJECT_TABLE,
                        '` FOR EACH ROW ', ACTION_STATEMENT, separator_text SEPARATOR '')
      INTO statements
      FROM information_schema.TRIGGERS
     WHERE TRIGGER_SCHEMA = DATABASE() AND TRIGGER_NAME LIKE 'indexer\_%'
       AND DEFINER <> REPLACE(@indexer_account, '''', '');
    WHILE statements <> '' DO
      SET @indexer_sql = SUBSTRING_INDEX(statements, separator_text, 1);
      SET statements = SUBSTRING(statements, CHAR_LENGTH(@indexer_sql) + CHAR_LENGTH(separator_text) + 1);
      PREPARE indexer_statement FROM @indexer_sql;
      EXECUTE indexer_statement;
      DEALLOCATE PREPARE indexer_statement;
    END WHILE;
  END IF;
END//
DELIMITER ;

DROP TRIGGER IF EXISTS indexer_row;
DELIMITER //
CREATE DEFINER = CURRENT_USER TRIGGER indexer_row BEFORE INSERT ON study_service FOR EACH ROW
BEGIN
  IF NEW.id = 0 THEN
    SET NEW.id = UUID_SHORT();
  END IF;
  -- A session that isn't strict gives a row by hand the date '0000-00-00'.
  IF NEW.recorded_at IS NULL OR NEW.recorded_at < '1971-01-01' THEN
    SET NEW.recorded_at = UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),
      CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND;
  END IF;
END//
DELIMITER ;

-- Once all the way that a study will go, with the triggers' rights, on a table of its own, and taken back. A trigger on the archive's
-- tables would not say what is wrong; here it does, and the script ends.
DROP TABLE IF EXISTS indexer_trial;
CREATE TABLE indexer_trial (number BIGINT NOT NULL PRIMARY KEY) ENGINE = InnoDB;
CALL indexer_install_rights('SELECT, INSERT, UPDATE, TRIGGER', 'indexer_trial');
DELIMITER //
CREATE DEFINER = CURRENT_USER TRIGGER indexer_trial AFTER INSERT ON indexer_trial FOR EACH ROW
BEGIN
  CALL indexer_process(NEW.number, 'stored');
  CALL indexer_process(NEW.number, 'patient');
END//
DELIMITER ;
-- MariaDB 10.6.2 and later: the same for the archive's account, whatever its name. Nothing new to read.
DELIMITER //
/*M!100602 EXECUTE IMMEDIATE IF(@indexer_account = @indexer_runs_as, 'DO 0',
CONCAT('CREATE OR REPLACE DEFINER = ', @indexer_account,
' TRIGGER indexer_trial AFTER INSERT ON indexer_trial FOR EACH ROW
BEGIN
  CALL indexer_process(NEW.number, ''stored'');
  CALL indexer_process(NEW.number, ''patient'');
END')) */ //
DELIMITER ;
SELECT MAX(study_pk) INTO @indexer_newest FROM (SELECT study_pk FROM indexer_study ORDER BY study_pk DESC LIMIT 1) newest;
START TRANSACTION;
INSERT INTO indexer_trial VALUES (COALESCE(@indexer_newest, 0));
ROLLBACK;
DROP TABLE indexer_trial;
-- end

-- ---------------------------------------------------------------------------------------------------------------
-- 7. Triggers on. Each has a handler of its own: an error in or below it never reaches the archive. (A handler in the procedure
--    could not catch that the procedure itself is missing.)
--    Texts are compared as bytes: for the column's collation PEÑA and PENA may be the same.
--    What a trigger reads it reads with SELECT ... INTO alone: a subquery in CALL, IF or SET reads with a lock, and would
--    make the archive wait.
-- ---------------------------------------------------------------------------------------------------------------
DELIMITER //
CREATE DEFINER = CURRENT_USER TRIGGER indexer_study_insert AFTER INSERT ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF NEW.patient_fk IS NOT NULL THEN
    CALL indexer_process(NEW.pk, 'stored');
  END IF;
END//

-- DCM4CHEE 2.x inserts a study without its patient, and sets the patient in the same transaction; before it deletes a patient it
-- takes the patient from his studies. A study without a patient counts as deleted, until it has one.
CREATE DEFINER = CURRENT_USER TRIGGER indexer_study_update AFTER UPDATE ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF OLD.patient_fk IS NOT NULL
     AND (NEW.patient_fk IS NULL OR CAST(OLD.study_iuid AS BINARY) <> CAST(NEW.study_iuid AS BINARY)) THEN
    BEGIN
      DECLARE CONTINUE HANDLER FOR 1062
        INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
            study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
          VALUES ((UUID_SHORT() & 0xFF00000000FFFFFF) | ((FLOOR(RAND() * 0x80000000) | 0x80000000) << 24), 'deleted', NULL, NULL, NULL, OLD.pk, OLD.study_iuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
            UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),
              CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND);
      INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
          study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
        VALUES (UUID_SHORT(), 'deleted', NULL, NULL, NULL, OLD.pk, OLD.study_iuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
          UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),
            CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND);
    END;
  END IF;
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

-- Key and UID, and nothing from the view: that may lack the study. One without a patient is recorded as deleted already.
CREATE DEFINER = CURRENT_USER TRIGGER indexer_study_delete BEFORE DELETE ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF OLD.patient_fk IS NOT NULL THEN
    BEGIN
      DECLARE CONTINUE HANDLER FOR 1062
        INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
            study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
          VALUES ((UUID_SHORT() & 0xFF00000000FFFFFF) | ((FLOOR(RAND() * 0x80000000) | 0x80000000) << 24), 'deleted', NULL, NULL, NULL, OLD.pk, OLD.study_iuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
            UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),
              CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND);
      INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
          study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
        VALUES (UUID_SHORT(), 'deleted', NULL, NULL, NULL, OLD.pk, OLD.study_iuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
          UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),
            CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND);
    END;
  END IF;
END//

-- One row for the patient; the service finds the patient's studies. Recording 5,000 studies here would cost half a second.
CREATE DEFINER = CURRENT_USER TRIGGER indexer_patient_update AFTER UPDATE ON patient FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF NOT (CAST(OLD.pat_id AS BINARY) <=> CAST(NEW.pat_id AS BINARY)
          AND CAST(OLD.pat_id_issuer AS BINARY) <=> CAST(NEW.pat_id_issuer AS BINARY)
          AND CAST(OLD.pat_name AS BINARY) <=> CAST(NEW.pat_name AS BINARY)) THEN
    CALL indexer_process(NEW.pk, 'patient');
  END IF;
END//
DELIMITER ;
-- MariaDB 10.6.2 and later: the same for the archive's account, whatever its name. Nothing new to read.
DELIMITER //
/*M!100602 EXECUTE IMMEDIATE IF(@indexer_account = @indexer_runs_as, 'DO 0',
CONCAT('CREATE OR REPLACE DEFINER = ', @indexer_account,
' TRIGGER indexer_row BEFORE INSERT ON study_service FOR EACH ROW
BEGIN
  IF NEW.id = 0 THEN
    SET NEW.id = UUID_SHORT();
  END IF;
  IF NEW.recorded_at IS NULL OR NEW.recorded_at < ''1971-01-01'' THEN
    SET NEW.recorded_at = UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),
      CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND;
  END IF;
END')) */ //
/*M!100602 EXECUTE IMMEDIATE IF(@indexer_account = @indexer_runs_as, 'DO 0',
CONCAT('CREATE OR REPLACE DEFINER = ', @indexer_account,
' TRIGGER indexer_study_insert AFTER INSERT ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF NEW.patient_fk IS NOT NULL THEN
    CALL indexer_process(NEW.pk, ''stored'');
  END IF;
END')) */ //
/*M!100602 EXECUTE IMMEDIATE IF(@indexer_account = @indexer_runs_as, 'DO 0',
CONCAT('CREATE OR REPLACE DEFINER = ', @indexer_account,
' TRIGGER indexer_study_update AFTER UPDATE ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF OLD.patient_fk IS NOT NULL
     AND (NEW.patient_fk IS NULL OR CAST(OLD.study_iuid AS BINARY) <> CAST(NEW.study_iuid AS BINARY)) THEN
    BEGIN
      DECLARE CONTINUE HANDLER FOR 1062
        INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
            study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
          VALUES ((UUID_SHORT() & 0xFF00000000FFFFFF) | ((FLOOR(RAND() * 0x80000000) | 0x80000000) << 24), ''deleted'', NULL, NULL, NULL, OLD.pk, OLD.study_iuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
            UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),
              CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND);
      INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
          study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
        VALUES (UUID_SHORT(), ''deleted'', NULL, NULL, NULL, OLD.pk, OLD.study_iuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
          UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),
            CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND);
    END;
  END IF;
  IF NEW.patient_fk IS NOT NULL THEN
    IF OLD.patient_fk IS NULL THEN
      CALL indexer_process(NEW.pk, ''stored'');
    ELSEIF NOT (OLD.patient_fk = NEW.patient_fk
                AND OLD.num_instances <=> NEW.num_instances
                AND OLD.num_series <=> NEW.num_series
                AND OLD.study_datetime <=> NEW.study_datetime
                AND CAST(OLD.study_iuid AS BINARY) <=> CAST(NEW.study_iuid AS BINARY)
                AND CAST(OLD.study_desc AS BINARY) <=> CAST(NEW.study_desc AS BINARY)
                AND CAST(OLD.mods_in_study AS BINARY) <=> CAST(NEW.mods_in_study AS BINARY)
                AND CAST(OLD.accession_no AS BINARY) <=> CAST(NEW.accession_no AS BINARY)) THEN
      CALL indexer_process(NEW.pk, ''changed'');
    END IF;
  END IF;
END')) */ //
/*M!100602 EXECUTE IMMEDIATE IF(@indexer_account = @indexer_runs_as, 'DO 0',
CONCAT('CREATE OR REPLACE DEFINER = ', @indexer_account,
' TRIGGER indexer_study_delete BEFORE DELETE ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF OLD.patient_fk IS NOT NULL THEN
    BEGIN
      DECLARE CONTINUE HANDLER FOR 1062
        INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
            study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
          VALUES ((UUID_SHORT() & 0xFF00000000FFFFFF) | ((FLOOR(RAND() * 0x80000000) | 0x80000000) << 24), ''deleted'', NULL, NULL, NULL, OLD.pk, OLD.study_iuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
            UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),
              CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND);
      INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
          study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
        VALUES (UUID_SHORT(), ''deleted'', NULL, NULL, NULL, OLD.pk, OLD.study_iuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
          UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),
            CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND);
    END;
  END IF;
END')) */ //
/*M!100602 EXECUTE IMMEDIATE IF(@indexer_account = @indexer_runs_as, 'DO 0',
CONCAT('CREATE OR REPLACE DEFINER = ', @indexer_account,
' TRIGGER indexer_patient_update AFTER UPDATE ON patient FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF NOT (CAST(OLD.pat_id AS BINARY) <=> CAST(NEW.pat_id AS BINARY)
          AND CAST(OLD.pat_id_issuer AS BINARY) <=> CAST(NEW.pat_id_issuer AS BINARY)
          AND CAST(OLD.pat_name AS BINARY) <=> CAST(NEW.pat_name AS BINARY)) THEN
    CALL indexer_process(NEW.pk, ''patient'');
  END IF;
END')) */ //
DELIMITER ;

-- MySQL takes no account's name from a variable: the same once more for the archive's usual account. Nothing new to read.
SET @indexer_named = NULL;
/*!80029 SET @indexer_named = @indexer_account */;
DROP PROCEDURE IF EXISTS indexer_install_named;
DELIMITER //
CREATE PROCEDURE indexer_install_named(IN account VARCHAR(80) CHARACTER SET utf8mb4)
BEGIN
  IF @indexer_named = account THEN
    DROP TRIGGER IF EXISTS indexer_study_insert;
    DROP TRIGGER IF EXISTS indexer_study_update;
    DROP TRIGGER IF EXISTS indexer_study_delete;
    DROP TRIGGER IF EXISTS indexer_patient_update;
    DROP TRIGGER IF EXISTS indexer_row;
  END IF;
END//
DELIMITER ;
CALL indexer_install_named('''pacs''@''%''');
DELIMITER //
/*!80029 CREATE DEFINER = 'pacs'@'%' TRIGGER IF NOT EXISTS indexer_row BEFORE INSERT ON study_service FOR EACH ROW
BEGIN
  IF NEW.id = 0 THEN
    SET NEW.id = UUID_SHORT();
  END IF;
  IF NEW.recorded_at IS NULL OR NEW.recorded_at < '1971-01-01' THEN
    SET NEW.recorded_at = UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),
      CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND;
  END IF;
END */ //
/*!80029 CREATE DEFINER = 'pacs'@'%' TRIGGER IF NOT EXISTS indexer_study_insert AFTER INSERT ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF NEW.patient_fk IS NOT NULL THEN
    CALL indexer_process(NEW.pk, 'stored');
  END IF;
END */ //
/*!80029 CREATE DEFINER = 'pacs'@'%' TRIGGER IF NOT EXISTS indexer_study_update AFTER UPDATE ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF OLD.patient_fk IS NOT NULL
     AND (NEW.patient_fk IS NULL OR CAST(OLD.study_iuid AS BINARY) <> CAST(NEW.study_iuid AS BINARY)) THEN
    BEGIN
      DECLARE CONTINUE HANDLER FOR 1062
        INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
            study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
          VALUES ((UUID_SHORT() & 0xFF00000000FFFFFF) | ((FLOOR(RAND() * 0x80000000) | 0x80000000) << 24), 'deleted', NULL, NULL, NULL, OLD.pk, OLD.study_iuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
            UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),
              CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND);
      INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
          study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
        VALUES (UUID_SHORT(), 'deleted', NULL, NULL, NULL, OLD.pk, OLD.study_iuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
          UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),
            CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND);
    END;
  END IF;
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
END */ //
/*!80029 CREATE DEFINER = 'pacs'@'%' TRIGGER IF NOT EXISTS indexer_study_delete BEFORE DELETE ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF OLD.patient_fk IS NOT NULL THEN
    BEGIN
      DECLARE CONTINUE HANDLER FOR 1062
        INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
            study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
          VALUES ((UUID_SHORT() & 0xFF00000000FFFFFF) | ((FLOOR(RAND() * 0x80000000) | 0x80000000) << 24), 'deleted', NULL, NULL, NULL, OLD.pk, OLD.study_iuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
            UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),
              CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND);
      INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
          study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
        VALUES (UUID_SHORT(), 'deleted', NULL, NULL, NULL, OLD.pk, OLD.study_iuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
          UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),
            CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND);
    END;
  END IF;
END */ //
/*!80029 CREATE DEFINER = 'pacs'@'%' TRIGGER IF NOT EXISTS indexer_patient_update AFTER UPDATE ON patient FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF NOT (CAST(OLD.pat_id AS BINARY) <=> CAST(NEW.pat_id AS BINARY)
          AND CAST(OLD.pat_id_issuer AS BINARY) <=> CAST(NEW.pat_id_issuer AS BINARY)
          AND CAST(OLD.pat_name AS BINARY) <=> CAST(NEW.pat_name AS BINARY)) THEN
    CALL indexer_process(NEW.pk, 'patient');
  END IF;
END */ //
DELIMITER ;
CALL indexer_install_named('''pacs''@''localhost''');
DELIMITER //
/*!80029 CREATE DEFINER = 'pacs'@'localhost' TRIGGER IF NOT EXISTS indexer_row BEFORE INSERT ON study_service FOR EACH ROW
BEGIN
  IF NEW.id = 0 THEN
    SET NEW.id = UUID_SHORT();
  END IF;
  IF NEW.recorded_at IS NULL OR NEW.recorded_at < '1971-01-01' THEN
    SET NEW.recorded_at = UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),
      CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND;
  END IF;
END */ //
/*!80029 CREATE DEFINER = 'pacs'@'localhost' TRIGGER IF NOT EXISTS indexer_study_insert AFTER INSERT ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF NEW.patient_fk IS NOT NULL THEN
    CALL indexer_process(NEW.pk, 'stored');
  END IF;
END */ //
/*!80029 CREATE DEFINER = 'pacs'@'localhost' TRIGGER IF NOT EXISTS indexer_study_update AFTER UPDATE ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF OLD.patient_fk IS NOT NULL
     AND (NEW.patient_fk IS NULL OR CAST(OLD.study_iuid AS BINARY) <> CAST(NEW.study_iuid AS BINARY)) THEN
    BEGIN
      DECLARE CONTINUE HANDLER FOR 1062
        INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
            study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
          VALUES ((UUID_SHORT() & 0xFF00000000FFFFFF) | ((FLOOR(RAND() * 0x80000000) | 0x80000000) << 24), 'deleted', NULL, NULL, NULL, OLD.pk, OLD.study_iuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
            UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),
              CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND);
      INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
          study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
        VALUES (UUID_SHORT(), 'deleted', NULL, NULL, NULL, OLD.pk, OLD.study_iuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
          UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),
            CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND);
    END;
  END IF;
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
END */ //
/*!80029 CREATE DEFINER = 'pacs'@'localhost' TRIGGER IF NOT EXISTS indexer_study_delete BEFORE DELETE ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF OLD.patient_fk IS NOT NULL THEN
    BEGIN
      DECLARE CONTINUE HANDLER FOR 1062
        INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
            study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
          VALUES ((UUID_SHORT() & 0xFF00000000FFFFFF) | ((FLOOR(RAND() * 0x80000000) | 0x80000000) << 24), 'deleted', NULL, NULL, NULL, OLD.pk, OLD.study_iuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
            UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),
              CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND);
      INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
          study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
        VALUES (UUID_SHORT(), 'deleted', NULL, NULL, NULL, OLD.pk, OLD.study_iuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
          UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),
            CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND);
    END;
  END IF;
END */ //
/*!80029 CREATE DEFINER = 'pacs'@'localhost' TRIGGER IF NOT EXISTS indexer_patient_update AFTER UPDATE ON patient FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF NOT (CAST(OLD.pat_id AS BINARY) <=> CAST(NEW.pat_id AS BINARY)
          AND CAST(OLD.pat_id_issuer AS BINARY) <=> CAST(NEW.pat_id_issuer AS BINARY)
          AND CAST(OLD.pat_name AS BINARY) <=> CAST(NEW.pat_name AS BINARY)) THEN
    CALL indexer_process(NEW.pk, 'patient');
  END IF;
END */ //
DELIMITER ;
DROP PROCEDURE indexer_install_named;

-- ---------------------------------------------------------------------------------------------------------------
-- 8. Record what happened while the triggers were off: studies that are new or look different, studies that are gone.
--    A study recorded between part 3 and part 4 is recorded once more: it may have changed, or gone, since.
-- ---------------------------------------------------------------------------------------------------------------
SET @indexer_triggers_on = UTC_TIMESTAMP(6);
SET @indexer_taken_at = (SELECT COALESCE(MIN(taken_at), UTC_TIMESTAMP(6)) FROM indexer_window);

INSERT IGNORE INTO indexer_window (study_pk, study_iuid, checksum, taken_at)
  SELECT study_pk, study_iuid, 0, recorded_at
    FROM study_service WHERE recorded_at >= @indexer_taken_at AND operation IN ('stored', 'changed');

-- One that was recorded before part 3 read, but committed after, and is gone: neither part 3 nor a trigger saw that.
INSERT IGNORE INTO indexer_window (study_pk, study_iuid, checksum, taken_at)
  SELECT o.study_pk, MAX(o.study_iuid), 0, MAX(o.recorded_at)
    FROM study_service o
    LEFT JOIN study s ON s.pk = o.study_pk AND s.patient_fk IS NOT NULL
   WHERE o.recorded_at >= @indexer_taken_at - INTERVAL 1 DAY AND s.pk IS NULL
         AND o.operation IN ('stored', 'changed', 'deleted')
   GROUP BY o.study_pk
  HAVING SUM(o.operation = 'deleted') = 0;

-- A study that has another UID now: the old one is gone, unless another study has it.
INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
    study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
  SELECT UUID_SHORT(), 'deleted', NULL, NULL, NULL, w.study_pk, w.study_iuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
         UTC_TIMESTAMP(6)
    FROM indexer_window w
    JOIN study s ON s.pk = w.study_pk
    LEFT JOIN study u ON u.study_iuid = w.study_iuid
   WHERE w.checksum <> 0 AND CAST(w.study_iuid AS BINARY) <> CAST(CONVERT(s.study_iuid USING utf8mb4) AS BINARY) AND u.pk IS NULL;

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
-- its UID. In tables of their own, because optimizers read study_service once for each deleted study else. (Each has a primary
-- key: a server may demand that of temporary tables too.)
DROP TEMPORARY TABLE IF EXISTS indexer_window_ended, indexer_window_stored;
CREATE TEMPORARY TABLE indexer_window_ended (study_pk BIGINT NOT NULL PRIMARY KEY) ENGINE = InnoDB;
CREATE TEMPORARY TABLE indexer_window_stored (
  study_pk BIGINT NOT NULL PRIMARY KEY, study_iuid VARCHAR(250) NULL, KEY study_iuid (study_iuid(64))
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
INSERT IGNORE INTO indexer_window_ended
  SELECT study_pk FROM study_service WHERE recorded_at >= @indexer_taken_at AND operation = 'deleted';
INSERT IGNORE INTO indexer_window_stored
  SELECT study_pk, study_iuid FROM study_service WHERE recorded_at >= @indexer_taken_at AND operation = 'stored';

INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
    study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
  SELECT UUID_SHORT(), 'deleted', NULL, NULL, NULL, w.study_pk, w.study_iuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
         UTC_TIMESTAMP(6)
    FROM indexer_window w
    LEFT JOIN study s ON s.pk = w.study_pk AND s.patient_fk IS NOT NULL
    LEFT JOIN indexer_window_ended e ON e.study_pk = w.study_pk
   WHERE w.study_pk <> 0 AND s.pk IS NULL AND e.study_pk IS NULL
     AND NOT EXISTS (SELECT 1 FROM indexer_window_stored o WHERE o.study_iuid = w.study_iuid AND o.study_pk <> w.study_pk);
DROP TEMPORARY TABLE indexer_window_ended, indexer_window_stored;

DROP VIEW indexer_window_now;
DROP TABLE indexer_window;

-- ---------------------------------------------------------------------------------------------------------------
-- 9. What is left over, and what there is to say.
-- ---------------------------------------------------------------------------------------------------------------
-- any archive, 3
-- An earlier version of this script had an account for the triggers, without which every change of a study failed.
DROP PROCEDURE indexer_install_definer;
DROP PROCEDURE indexer_install_rights;
DROP PROCEDURE IF EXISTS indexer_install_old_account;
DELIMITER //
CREATE PROCEDURE indexer_install_old_account()
BEGIN
  IF EXISTS (SELECT 1 FROM information_schema.USER_PRIVILEGES WHERE GRANTEE = '''indexer_trigger''@''localhost''')
     AND NOT EXISTS (SELECT 1 FROM information_schema.TRIGGERS WHERE DEFINER = 'indexer_trigger@localhost') THEN
    DROP USER 'indexer_trigger'@'localhost';
  END IF;
END//
DELIMITER ;
CALL indexer_install_old_account();
DROP PROCEDURE indexer_install_old_account;

-- On MariaDB it is known, and the catalogue isn't asked (see indexer_install_definer).
SET @indexer_sql = IF(@indexer_dynamic, 'SELECT REPLACE(@indexer_account, '''''''', '''') INTO @indexer_given',
  'SELECT GROUP_CONCAT(DISTINCT DEFINER) INTO @indexer_given
     FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = DATABASE() AND TRIGGER_NAME LIKE ''indexer\_%''');
PREPARE indexer_statement FROM @indexer_sql;
EXECUTE indexer_statement;
DEALLOCATE PREPARE indexer_statement;
SELECT CONCAT('cdc_indexer is installed in ', DATABASE(), '.') AS ''
UNION ALL
SELECT CONCAT('The triggers run with the rights of ', @indexer_given, '. If the archive logs in as another account, put',
              ' SET @indexer_definer = ''user@host''; before the file and run it again.')
UNION ALL
SELECT CONCAT('This server takes no account from a variable, so they are not those of ', REPLACE(@indexer_account, '''', ''),
              '. A line that makes them so, with the program or beside this file:')
  FROM DUAL WHERE @indexer_given <> REPLACE(@indexer_account, '''', '')
UNION ALL
SELECT CONCAT('cdc-indexer sql ', IF(@indexer_file LIKE '%arc5%', '--arc5 ', ''), '--definer ''', REPLACE(@indexer_account, '''', ''),
              ''' | mysql ', DATABASE())
  FROM DUAL WHERE @indexer_file IS NOT NULL AND @indexer_given <> REPLACE(@indexer_account, '''', '')
UNION ALL
SELECT CONCAT('(echo "SET @indexer_definer = ''', REPLACE(@indexer_account, '''', ''), ''';"; sed "s/DEFINER = ', 'CURRENT_USER/DEFINER = ',
              @indexer_account, '/" ', COALESCE(CONCAT('extras/', @indexer_file), 'install.sql'), ') | mysql ', DATABASE())
  FROM DUAL WHERE @indexer_given <> REPLACE(@indexer_account, '''', '')
UNION ALL
SELECT 'event_scheduler is not ON: rows older than 400 days stay until it is.' FROM DUAL WHERE @@event_scheduler <> 'ON'
UNION ALL
SELECT 'binlog_format is not ROW: the archive may wait for locks. SET GLOBAL binlog_format = ROW, and put it into my.cnf.'
  FROM DUAL WHERE @@GLOBAL.log_bin AND @@GLOBAL.binlog_format <> 'ROW';
-- end
