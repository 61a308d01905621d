-- cdc_indexer for dcm4chee-arc 5 (5.23 and later): records every study of the archive in one table, study_service.
-- For DCM4CHEE 2.x there is add_indexer.sql. Both make the same view, table and procedures; the service doesn't know which.
--
--   mysql pacsdb < add_indexer_arc5.sql   (pacsdb: the archive's database; as root, or see "Rights")
--
-- What it adds, and nothing else:
--   view       indexer_study      a study as the central index wants it; the only place that knows the archive's tables
--   table      study_service      one row for each study that was stored or deleted, and for each thing that changed in one
--   procedures indexer_process    copies one study from the view into the table
--              indexer_prune      deletes old rows of the table
--   triggers   indexer_study_insert, indexer_study_update, indexer_study_delete          on study
--              indexer_instance_insert, indexer_instance_delete                          on instance
--              indexer_series_insert, indexer_series_update, indexer_series_delete       on series
--              indexer_rejected_insert, indexer_rejected_delete                          on rejected_instance
--              indexer_patient_before, indexer_patient_update                            on patient
--              indexer_patient_id_insert, _before, _update, _delete                      on patient_id
--              indexer_person_name_update                                                on person_name
--              indexer_row            numbers and dates the rows of study_service
--   event      indexer_prune      every night: rows older than 400 days (needs event_scheduler = ON)
--   accounts   'indexer_definer'@'localhost' and 'indexer_trigger'@'localhost': nobody logs in with them (locked from
--              MySQL 5.7.6 and MariaDB 10.4.2 on; before, a password that nobody knows). The procedures and the
--              triggers run with their rights.
--
-- What an image changes in the archive's tables, and what follows from that.
--   Storing one inserts a row into instance (and, with the first of a series, one into series), and throws away what
--   study_query_attrs and series_query_attrs had cached. The row of the study is not touched: it holds no counts, study_size is
--   -1 until the archive has computed it, and access_time moves every few minutes at most. study_query_attrs holds a row only if
--   somebody has asked for the study since, and one for each of the archive's views: it can neither say that an image came
--   nor how many there are. Hence the trigger on instance. It counts nothing: it finds the study by two primary keys and leaves a
--   row ('changed') with study_pk and study_iuid only. The service reads the view once the study is quiet, for all its images at
--   once. That makes one small row for each image; after a week the nightly event leaves one of them for each study.
--   Rejecting inserts into rejected_instance, stores the rejection note as an instance, and sets rejection_state of series and
--   study when it turns from none to some or from some to all. Revoking deletes from rejected_instance, and may leave all
--   else alone. Hence the triggers on rejected_instance and series.
--   Deleting for good removes instance by instance, then the series, then the study.
--
-- What counts: images that the archive holds and nobody has rejected, and series that aren't rejected as a whole. A rejection
-- note is no image. A study that is rejected as a whole stays in the index with 0 series and 0 images until the archive deletes
-- it; when the rejection is revoked it has its counts again. Access control (access_control_id) hides nothing from the index.
-- Of a series whose instance records the archive has moved into its metadata ("purge instance records") the archive's own
-- cached count is taken; without one, its images are not counted.
--
-- A patient may have several ids (from 5.31 on; before, one): the first by primary key is sent, the one that the archive
-- recorded first, with its entity_id as patient_id_issuer. The archive writes '*' where there is no value, and may end names with
-- '^': both are left out. After an update of the archive to 5.31 run this script again: the view names a column that is gone.
--
-- The archive may be in use meanwhile. Every statement gives up after 2 seconds when it has to wait for a lock; the
-- archive then goes on as before, and you run the script again. As with any CREATE TRIGGER on a table in use, a
-- transaction that has changed one of these tables and comes to another in just that instant may be told to try again (error
-- 1213): choose a quiet hour. It can be run as often as you like: a run that was
-- interrupted is completed, and what was stored while the triggers were off is recorded at the end.
-- To know that, it reads all studies and series once before and once after, without a lock (a minute for a million studies), but
-- not all images: those that came meanwhile are found by their primary keys. Not found is an image that was taken out of
-- a series, or whose rejection was revoked, alone and in just these seconds; the study's next change brings that to the index.
--
-- What it costs: 0.1 (MariaDB) to 0.3 ms (MySQL) of the server's CPU for an image, up to 0.8 ms for a study or series that is
-- stored, changed or rejected, and nothing for what the archive does otherwise, but for patients (two looks by key). A trigger
-- never makes the archive fail or wait: it takes no lock on the archive's rows, and when study_service or a procedure is broken or
-- missing, the study is stored as if there were no trigger.
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

SET NAMES utf8mb4;
SET SESSION autocommit = 1;
-- Every routine keeps the sql_mode of the moment it is made. Not strict: a value too long is cut, not lost.
SET SESSION sql_mode = 'NO_ENGINE_SUBSTITUTION';
SET SESSION lock_wait_timeout = 2;
SET SESSION innodb_lock_wait_timeout = 2;
-- In this level INSERT ... SELECT takes no locks on the rows it reads.
SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;

-- ---------------------------------------------------------------------------------------------------------------
-- 1. Is this a dcm4chee-arc 5 archive? If a table or column is missing, the script ends here; nothing is changed yet.
-- ---------------------------------------------------------------------------------------------------------------
SELECT s.pk, s.patient_fk, s.study_iuid, s.study_date, s.study_time, s.accession_no, s.study_desc, r.pk, r.study_fk, r.modality,
       r.series_iuid, r.rejection_state, o.pk, o.series_fk, o.sop_iuid, p.pk, p.pat_name_fk, n.pk, n.alphabetic_name, i.pk, i.pat_id
  FROM study s JOIN patient p ON p.pk = s.patient_fk JOIN person_name n ON n.pk = p.pat_name_fk JOIN series r ON r.study_fk = s.pk
  JOIN instance o ON o.series_fk = r.pk JOIN patient_id i ON i.pk = p.pk LIMIT 0;

-- What differs between its versions. patient_fk: from 5.31 on the id names its patient; before, the patient names its id.
SET @indexer_has_patient_fk = (SELECT COUNT(*) FROM information_schema.COLUMNS
  WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'patient_id' AND COLUMN_NAME = 'patient_fk'),
    @indexer_has_patient_id_fk = (SELECT COUNT(*) FROM information_schema.COLUMNS
  WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'patient' AND COLUMN_NAME = 'patient_id_fk'),
    @indexer_has_entity_id = (SELECT COUNT(*) FROM information_schema.COLUMNS
  WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'patient_id' AND COLUMN_NAME = 'entity_id'),
    @indexer_has_rejected = (SELECT COUNT(*) FROM information_schema.TABLES
  WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'rejected_instance' AND TABLE_COMMENT <> 'cdc_indexer'),
    @indexer_has_purge = (SELECT COUNT(*) = 2 FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE()
      AND (TABLE_NAME = 'series' AND COLUMN_NAME = 'inst_purge_state'
           OR TABLE_NAME = 'series_query_attrs' AND COLUMN_NAME = 'num_instances'));

-- Which id is the patient's, and what hides an image, in this version's columns; read where the views are made.
SET @indexer_first_id = CASE
      WHEN @indexer_has_patient_fk AND @indexer_has_patient_id_fk  -- the archive is being updated to 5.31
        THEN 'COALESCE((SELECT MIN(j.pk) FROM patient_id j WHERE j.patient_fk = p.pk), p.patient_id_fk)'
      WHEN @indexer_has_patient_fk
        THEN '(SELECT MIN(j.pk) FROM patient_id j WHERE j.patient_fk = p.pk)'
      ELSE 'p.patient_id_fk' END,
    @indexer_entity_id = IF(@indexer_has_entity_id, 'i.entity_id', 'CAST(NULL AS CHAR(255))'),
    @indexer_not_rejected = IF(@indexer_has_rejected,
      ' AND NOT (r.rejection_state = 1 AND EXISTS (SELECT 1 FROM rejected_instance x WHERE x.study_iuid = s.study_iuid
                 AND x.series_iuid = r.series_iuid AND x.sop_iuid = o.sop_iuid))', ''),
    @indexer_purged = IF(@indexer_has_purge,
      ' + (SELECT CAST(COALESCE(SUM((SELECT MAX(a.num_instances) FROM series_query_attrs a WHERE a.series_fk = r.pk)), 0) AS SIGNED)
             FROM series r WHERE r.study_fk = s.pk AND r.rejection_state <> 2 AND r.inst_purge_state = 1)', '');

-- ---------------------------------------------------------------------------------------------------------------
-- 2. The two accounts, and their rights on the archive's tables. The other rights follow where the objects are made.
-- ---------------------------------------------------------------------------------------------------------------
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
DROP PROCEDURE IF EXISTS indexer_install_rights;
DELIMITER //
CREATE PROCEDURE indexer_install_rights()
BEGIN
  DECLARE the_table VARCHAR(64) CHARACTER SET utf8mb4;
  DECLARE done INT DEFAULT 0;
  DECLARE tables_read CURSOR FOR SELECT TABLE_NAME FROM information_schema.TABLES
    WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN
      ('study', 'series', 'instance', 'rejected_instance', 'series_query_attrs', 'patient', 'patient_id', 'person_name');
  DECLARE CONTINUE HANDLER FOR NOT FOUND SET done = 1;
  OPEN tables_read;
  FETCH tables_read INTO the_table;
  WHILE NOT done DO
    SET @indexer_sql = CONCAT('GRANT SELECT ON ', the_table, ' TO ''indexer_definer''@''localhost''');
    PREPARE indexer_statement FROM @indexer_sql;
    EXECUTE indexer_statement;
    SET @indexer_sql = CONCAT('GRANT SELECT, TRIGGER ON ', the_table, ' TO ''indexer_trigger''@''localhost''');
    PREPARE indexer_statement FROM @indexer_sql;
    EXECUTE indexer_statement;
    FETCH tables_read INTO the_table;
  END WHILE;
  DEALLOCATE PREPARE indexer_statement;
  CLOSE tables_read;
END//
DELIMITER ;
CALL indexer_install_rights();
DROP PROCEDURE indexer_install_rights;

-- ---------------------------------------------------------------------------------------------------------------
-- 3. Remember how each study looks now, to find out in part 8 what happened while the triggers were off.
--    The table indexer_window exists only until then; one left by an interrupted run is kept, it knows more.
--    Its row 0 holds how far the primary keys of instance had come.
-- ---------------------------------------------------------------------------------------------------------------
SET @indexer_sql = CONCAT('CREATE OR REPLACE ALGORITHM = MERGE SQL SECURITY INVOKER VIEW indexer_window_now AS
SELECT s.pk AS study_pk,
       s.study_iuid AS study_iuid,
       CRC32(CONCAT_WS(''|'', s.patient_fk, CRC32(s.study_iuid), CRC32(s.study_date), CRC32(s.study_time), CRC32(s.accession_no),
                       CRC32(s.study_desc), IFNULL(CRC32(n.alphabetic_name), ''-''), IFNULL(CRC32(i.pat_id), ''-''),
                       IFNULL(CRC32(', @indexer_entity_id, '), ''-''),
                       (SELECT CONCAT_WS(''|'', COUNT(*), MAX(r.pk), SUM(r.rejection_state), SUM(CRC32(r.modality)))
                          FROM series r WHERE r.study_fk = s.pk))) AS checksum
  FROM study s STRAIGHT_JOIN patient p ON p.pk = s.patient_fk
       LEFT JOIN person_name n ON n.pk = p.pat_name_fk
       LEFT JOIN patient_id i ON i.pk = ', @indexer_first_id);
PREPARE indexer_statement FROM @indexer_sql;
EXECUTE indexer_statement;

DROP PROCEDURE IF EXISTS indexer_install_window;
DELIMITER //
CREATE PROCEDURE indexer_install_window()
BEGIN
  IF NOT EXISTS (SELECT 1 FROM information_schema.TABLES
                  WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'indexer_window') THEN
    DROP TABLE IF EXISTS indexer_window_new;
    CREATE TABLE indexer_window_new (
      study_pk    BIGINT NOT NULL PRIMARY KEY,
      study_iuid  VARCHAR(250) NULL,
      checksum    INT UNSIGNED NOT NULL,
      taken_at    DATETIME(6) NOT NULL,
      instance_pk BIGINT NULL
    ) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
    INSERT INTO indexer_window_new (study_pk, checksum, taken_at, instance_pk)
      SELECT 0, 0, UTC_TIMESTAMP(6), COALESCE(MAX(pk), 0) FROM instance;
    INSERT INTO indexer_window_new (study_pk, study_iuid, checksum, taken_at)
      SELECT study_pk, study_iuid, checksum, UTC_TIMESTAMP(6) FROM indexer_window_now;
    RENAME TABLE indexer_window_new TO indexer_window;
  END IF;
END//
DELIMITER ;
CALL indexer_install_window();
DROP PROCEDURE indexer_install_window;

-- ---------------------------------------------------------------------------------------------------------------
-- 4. Triggers off, before anything that they use is touched.
-- ---------------------------------------------------------------------------------------------------------------
DROP TRIGGER IF EXISTS indexer_process;
DROP TRIGGER IF EXISTS indexer_study_insert;
DROP TRIGGER IF EXISTS indexer_study_update;
DROP TRIGGER IF EXISTS indexer_study_delete;
DROP TRIGGER IF EXISTS indexer_instance_insert;
DROP TRIGGER IF EXISTS indexer_instance_delete;
DROP TRIGGER IF EXISTS indexer_series_insert;
DROP TRIGGER IF EXISTS indexer_series_update;
DROP TRIGGER IF EXISTS indexer_series_delete;
DROP TRIGGER IF EXISTS indexer_rejected_insert;
DROP TRIGGER IF EXISTS indexer_rejected_delete;
DROP TRIGGER IF EXISTS indexer_patient_before;
DROP TRIGGER IF EXISTS indexer_patient_update;
DROP TRIGGER IF EXISTS indexer_patient_id_insert;
DROP TRIGGER IF EXISTS indexer_patient_id_before;
DROP TRIGGER IF EXISTS indexer_patient_id_update;
DROP TRIGGER IF EXISTS indexer_patient_id_delete;
DROP TRIGGER IF EXISTS indexer_person_name_update;

-- An archive without the table rejected_instance: see part 7.
DROP PROCEDURE IF EXISTS indexer_install_rejected;
DELIMITER //
CREATE PROCEDURE indexer_install_rejected(IN wanted INT)
BEGIN
  IF NOT wanted AND EXISTS (SELECT 1 FROM information_schema.TABLES
      WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'rejected_instance' AND TABLE_COMMENT = 'cdc_indexer') THEN
    DROP TABLE rejected_instance;
  ELSEIF wanted AND NOT EXISTS (SELECT 1 FROM information_schema.TABLES
      WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'rejected_instance') THEN
    CREATE TABLE rejected_instance (study_iuid VARCHAR(255)) ENGINE = InnoDB COMMENT 'cdc_indexer';
  END IF;
END//
DELIMITER ;
CALL indexer_install_rejected(0);

-- ---------------------------------------------------------------------------------------------------------------
-- 5. View and table.
-- ---------------------------------------------------------------------------------------------------------------
SET @indexer_sql = CONCAT('CREATE OR REPLACE ALGORITHM = MERGE DEFINER = ''indexer_definer''@''localhost'' SQL SECURITY DEFINER
VIEW indexer_study AS
SELECT p.pk                     AS patient_pk,
       NULLIF(i.pat_id, ''*'')    AS patient_id,
       NULLIF(NULLIF(TRIM(TRAILING ''^'' FROM n.alphabetic_name), ''''), ''*'') AS patient_name,
       s.pk                     AS study_pk,
       s.study_iuid             AS study_iuid,
       IF(CHAR_LENGTH(s.study_date) = 8,
          COALESCE(STR_TO_DATE(CONCAT(s.study_date, RPAD(IF(s.study_time = ''*'', '''', LEFT(s.study_time, 6)), 6, ''0'')),
                               ''%Y%m%d%H%i%s''),
                   STR_TO_DATE(CONCAT(s.study_date, ''000000''), ''%Y%m%d%H%i%s'')), NULL) AS study_datetime,
       NULLIF(s.study_desc, ''*'') AS study_description,
       (SELECT REPLACE(GROUP_CONCAT(DISTINCT r.modality ORDER BY r.modality SEPARATOR '',''), '','', ''\\\\'') FROM series r
         WHERE r.study_fk = s.pk AND r.rejection_state <> 2 AND r.modality <> ''*'') AS study_modality,
       (SELECT COUNT(*) FROM series r WHERE r.study_fk = s.pk AND r.rejection_state <> 2) AS study_series,
       (SELECT COUNT(*) FROM series r JOIN instance o ON o.series_fk = r.pk
         WHERE r.study_fk = s.pk AND r.rejection_state <> 2', @indexer_not_rejected, ')', @indexer_purged, ' AS study_instances,
       NULLIF(s.accession_no, ''*'') AS accession_no,
       NULLIF(', @indexer_entity_id, ', ''*'') AS patient_id_issuer
  FROM study s STRAIGHT_JOIN patient p ON p.pk = s.patient_fk
       LEFT JOIN person_name n ON n.pk = p.pat_name_fk
       LEFT JOIN patient_id i ON i.pk = ', @indexer_first_id);
PREPARE indexer_statement FROM @indexer_sql;
EXECUTE indexer_statement;
DEALLOCATE PREPARE indexer_statement;

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
GRANT SELECT ON indexer_study TO 'indexer_trigger'@'localhost';
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
-- A study that the view doesn't have is not recorded. For 'patient' the number is the patient's. 'counted' is for images:
-- recorded as 'changed' without the values, since counting at each image would cost more and more.
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
  ELSEIF the_operation = 'counted' THEN
    SET the_operation = 'changed';
    SELECT pk, study_iuid INTO found_study_pk, found_iuid FROM study WHERE pk = the_study_pk;
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

GRANT EXECUTE ON PROCEDURE indexer_process TO 'indexer_definer'@'localhost';
GRANT EXECUTE ON PROCEDURE indexer_prune TO 'indexer_definer'@'localhost';
GRANT EXECUTE ON PROCEDURE indexer_process TO 'indexer_trigger'@'localhost';

-- ---------------------------------------------------------------------------------------------------------------
-- 7. Triggers on. Each has a handler of its own: an error in or below it never reaches the archive. (A handler in the procedure
--    could not catch that the procedure itself is missing.)
--    Texts are compared as bytes: for the column's collation PEÑA and PENA may be the same.
--    What a trigger reads it reads with SELECT ... INTO alone: a subquery in CALL, IF or SET reads with a lock, and would
--    make the archive wait.
-- ---------------------------------------------------------------------------------------------------------------
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

CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_study_insert AFTER INSERT ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  CALL indexer_process(NEW.pk, 'stored');
END//

CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_study_update AFTER UPDATE ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF NOT (OLD.patient_fk <=> NEW.patient_fk
          AND CAST(OLD.study_iuid AS BINARY) <=> CAST(NEW.study_iuid AS BINARY)
          AND CAST(OLD.study_date AS BINARY) <=> CAST(NEW.study_date AS BINARY)
          AND CAST(OLD.study_time AS BINARY) <=> CAST(NEW.study_time AS BINARY)
          AND CAST(OLD.study_desc AS BINARY) <=> CAST(NEW.study_desc AS BINARY)
          AND CAST(OLD.accession_no AS BINARY) <=> CAST(NEW.accession_no AS BINARY)) THEN
    CALL indexer_process(NEW.pk, 'changed');
  END IF;
END//

-- BEFORE, because afterwards the view doesn't have the study any more.
CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_study_delete BEFORE DELETE ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  CALL indexer_process(OLD.pk, 'deleted');
END//

-- One small row for each image; see the head of this file. Not by way of indexer_process: with each image the server would open
-- every table that the view names. A number that is taken becomes another one, as there; the outer handler is also for
-- what goes wrong in the inner one.
CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_instance_insert AFTER INSERT ON instance FOR EACH ROW
BEGIN
  DECLARE new_id BIGINT UNSIGNED DEFAULT UUID_SHORT();
  DECLARE found_pk BIGINT;
  DECLARE found_iuid VARCHAR(250) CHARACTER SET utf8mb4;
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  BEGIN
    DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
    DECLARE CONTINUE HANDLER FOR 1062
      INSERT INTO study_service (id, operation, study_pk, study_iuid, recorded_at)
        VALUES ((new_id & 0xFF00000000FFFFFF) | ((FLOOR(RAND() * 0x80000000) | 0x80000000) << 24), 'changed', found_pk,
                found_iuid, UTC_TIMESTAMP(6));
    SELECT s.pk, s.study_iuid INTO found_pk, found_iuid
      FROM series r JOIN study s ON s.pk = r.study_fk WHERE r.pk = NEW.series_fk;
    IF found_pk IS NOT NULL THEN
      INSERT INTO study_service (id, operation, study_pk, study_iuid, recorded_at)
        VALUES (new_id, 'changed', found_pk, found_iuid, UTC_TIMESTAMP(6));
    END IF;
  END;
END//

-- Not when the archive moves a series' records into its metadata (inst_purge_state 1): the study has its images as before.
CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_instance_delete AFTER DELETE ON instance FOR EACH ROW
BEGIN
  DECLARE found_pk BIGINT;
  DECLARE purged INT DEFAULT 0;
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  SELECT study_fk INTO found_pk FROM series WHERE pk = OLD.series_fk;
  SELECT inst_purge_state INTO purged FROM series WHERE pk = OLD.series_fk;
  IF purged <> 1 THEN
    CALL indexer_process(found_pk, 'counted');
  END IF;
END//

CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_series_insert AFTER INSERT ON series FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  CALL indexer_process(NEW.study_fk, 'counted');
END//

CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_series_update AFTER UPDATE ON series FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF NOT (OLD.study_fk <=> NEW.study_fk AND OLD.rejection_state <=> NEW.rejection_state
          AND CAST(OLD.modality AS BINARY) <=> CAST(NEW.modality AS BINARY)) THEN
    CALL indexer_process(NEW.study_fk, 'counted');
    IF OLD.study_fk <> NEW.study_fk THEN
      CALL indexer_process(OLD.study_fk, 'counted');
    END IF;
  END IF;
END//

CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_series_delete AFTER DELETE ON series FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  CALL indexer_process(OLD.study_fk, 'counted');
END//

-- One row for the patient; the service finds the patient's studies. The archive updates a patient with each new study
-- (num_studies): what the view says of one of its studies before and after tells whether anything is different.
CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_patient_before BEFORE UPDATE ON patient FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  SET @indexer_patient = NULL;
  SELECT CONCAT_WS('|', IFNULL(HEX(patient_id), '-'), IFNULL(HEX(patient_id_issuer), '-'), IFNULL(HEX(patient_name), '-'))
    INTO @indexer_patient FROM indexer_study WHERE patient_pk = OLD.pk LIMIT 1;
END//

CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_patient_update AFTER UPDATE ON patient FOR EACH ROW
BEGIN
  DECLARE now_it_is TEXT CHARACTER SET utf8mb4;
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  SELECT CONCAT_WS('|', IFNULL(HEX(patient_id), '-'), IFNULL(HEX(patient_id_issuer), '-'), IFNULL(HEX(patient_name), '-'))
    INTO now_it_is FROM indexer_study WHERE patient_pk = NEW.pk LIMIT 1;
  IF CAST(now_it_is AS BINARY) <> CAST(@indexer_patient AS BINARY) THEN
    CALL indexer_process(NEW.pk, 'patient');
  END IF;
END//

-- The name stands in a row of its own, which belongs to at most one patient.
CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_person_name_update AFTER UPDATE ON person_name FOR EACH ROW
BEGIN
  DECLARE the_patient_pk BIGINT;
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  IF NOT CAST(OLD.alphabetic_name AS BINARY) <=> CAST(NEW.alphabetic_name AS BINARY) THEN
    SELECT pk INTO the_patient_pk FROM patient WHERE pat_name_fk = NEW.pk;
    IF the_patient_pk IS NOT NULL THEN
      CALL indexer_process(the_patient_pk, 'patient');
    END IF;
  END IF;
END//

-- An id counts when it is its patient's first. Before 5.31 it doesn't name its patient (the first SELECT fails, which the handler
-- takes), from 5.31 on the patient doesn't name its id. A patient without studies, such as a new one, concerns nobody.
CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_patient_id_insert AFTER INSERT ON patient_id FOR EACH ROW
BEGIN
  DECLARE the_patient_pk BIGINT;
  DECLARE has_studies INT DEFAULT 0;
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  SELECT i.patient_fk INTO the_patient_pk FROM patient_id i
   WHERE i.pk = NEW.pk AND NOT EXISTS (SELECT 1 FROM patient_id j WHERE j.patient_fk = i.patient_fk AND j.pk < i.pk);
  IF the_patient_pk IS NULL THEN
    SELECT pk INTO the_patient_pk FROM patient WHERE patient_id_fk = NEW.pk;
  END IF;
  SELECT 1 INTO has_studies FROM study WHERE patient_fk = the_patient_pk LIMIT 1;
  IF has_studies THEN
    CALL indexer_process(the_patient_pk, 'patient');
  END IF;
END//

CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_patient_id_delete BEFORE DELETE ON patient_id FOR EACH ROW
BEGIN
  DECLARE the_patient_pk BIGINT;
  DECLARE has_studies INT DEFAULT 0;
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  SELECT i.patient_fk INTO the_patient_pk FROM patient_id i
   WHERE i.pk = OLD.pk AND NOT EXISTS (SELECT 1 FROM patient_id j WHERE j.patient_fk = i.patient_fk AND j.pk < i.pk);
  IF the_patient_pk IS NULL THEN
    SELECT pk INTO the_patient_pk FROM patient WHERE patient_id_fk = OLD.pk;
  END IF;
  SELECT 1 INTO has_studies FROM study WHERE patient_fk = the_patient_pk LIMIT 1;
  IF has_studies THEN
    CALL indexer_process(the_patient_pk, 'patient');
  END IF;
END//

-- An id may also go over to another patient, as in a merge: that concerns both.
CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_patient_id_before BEFORE UPDATE ON patient_id FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  SET @indexer_patient = NULL;
  SELECT i.patient_fk INTO @indexer_patient FROM patient_id i
   WHERE i.pk = OLD.pk AND NOT EXISTS (SELECT 1 FROM patient_id j WHERE j.patient_fk = i.patient_fk AND j.pk < i.pk);
END//

CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_patient_id_update AFTER UPDATE ON patient_id FOR EACH ROW
BEGIN
  DECLARE the_patient_pk BIGINT;
  DECLARE has_studies INT DEFAULT 0;
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  SELECT i.patient_fk INTO the_patient_pk FROM patient_id i
   WHERE i.pk = NEW.pk AND NOT EXISTS (SELECT 1 FROM patient_id j WHERE j.patient_fk = i.patient_fk AND j.pk < i.pk);
  IF the_patient_pk IS NULL THEN
    SELECT pk INTO the_patient_pk FROM patient WHERE patient_id_fk = NEW.pk;
  END IF;
  SELECT 1 INTO has_studies FROM study WHERE patient_fk = the_patient_pk LIMIT 1;
  IF has_studies THEN
    CALL indexer_process(the_patient_pk, 'patient');
  END IF;
  IF @indexer_patient IS NOT NULL THEN
    SELECT patient_fk INTO the_patient_pk FROM patient_id WHERE pk = NEW.pk;
    IF the_patient_pk <> @indexer_patient THEN
      CALL indexer_process(@indexer_patient, 'patient');
    END IF;
  END IF;
END//
DELIMITER ;

-- Should the archive have no table rejected_instance, an empty one is made for this moment: a script can't make a trigger only
-- if its table is there.
CALL indexer_install_rejected(1);
DELIMITER //
CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_rejected_insert AFTER INSERT ON rejected_instance FOR EACH ROW
BEGIN
  DECLARE found_pk BIGINT;
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  SELECT pk INTO found_pk FROM study WHERE study_iuid = NEW.study_iuid;
  IF found_pk IS NOT NULL THEN
    CALL indexer_process(found_pk, 'counted');
  END IF;
END//

CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_rejected_delete AFTER DELETE ON rejected_instance FOR EACH ROW
BEGIN
  DECLARE found_pk BIGINT;
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  SELECT pk INTO found_pk FROM study WHERE study_iuid = OLD.study_iuid;
  IF found_pk IS NOT NULL THEN
    CALL indexer_process(found_pk, 'counted');
  END IF;
END//
DELIMITER ;
CALL indexer_install_rejected(0);
DROP PROCEDURE indexer_install_rejected;

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

-- Studies that got an image: whatever came while the triggers were off has a higher key than what there was before.
INSERT INTO study_service (id, operation, study_pk, study_iuid, recorded_at)
  SELECT UUID_SHORT(), 'changed', s.pk, s.study_iuid, UTC_TIMESTAMP(6)
    FROM (SELECT DISTINCT r.study_fk
            FROM indexer_window f
            JOIN instance o ON o.pk > f.instance_pk
            JOIN series r ON r.pk = o.series_fk
           WHERE f.study_pk = 0) got
    JOIN study s ON s.pk = got.study_fk
    JOIN indexer_window w ON w.study_pk = s.pk
   WHERE NOT EXISTS (SELECT 1 FROM study_service l WHERE l.study_pk = s.pk AND l.recorded_at >= @indexer_triggers_on);

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
   WHERE w.study_pk <> 0 AND s.pk IS NULL AND e.study_pk IS NULL
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
