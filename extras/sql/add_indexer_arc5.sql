-- cdc_indexer for dcm4chee-arc 5 (5.23 and later): records every study of the archive in one table, study_service.
-- For DCM4CHEE 2.x leave --arc5 out. Both make the same view, table and procedures; the service doesn't know which.
--
--   cdc-indexer sql --arc5 | mysql pacsdb     (pacsdb: the archive's database; as root, or see "Rights")
--   mysql pacsdb < FILE                       (the same, where the program isn't: FILE is what `cdc-indexer sql --arc5` has printed)
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
--   account    'indexer_definer'@'localhost': nobody logs in with it (locked from MySQL 5.7.6 and MariaDB 10.4.2 on; before, a
--              password that nobody knows). The nightly event runs with its rights.
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
-- cached count is taken; without one the number of images is unknown, and NULL in the view.
--
-- A patient may have several ids (from 5.31 on; before, one): the first by primary key is sent, the one that the archive
-- recorded first, with its entity_id as patient_id_issuer. The archive writes '*' where there is no value, and may end names with
-- '^': both are left out. After an update of the archive run this script again: what it makes depends on the version's columns.
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
-- stored, changed or rejected, and as good as nothing for what the archive does otherwise. A trigger
-- never makes the archive fail or wait: it takes no lock on the archive's rows, and when study_service or a procedure is broken or
-- missing, the study is stored as if there were no trigger.
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

-- %include session.sql

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
    -- Of a series whose records lie in its metadata the archive's own count is taken; unknown if it has none.
    @indexer_purged = IF(@indexer_has_purge,
      ' + (SELECT CAST(CASE WHEN SUM((SELECT MAX(a.num_instances) FROM series_query_attrs a WHERE a.series_fk = r.pk) IS NULL) > 0
                 THEN NULL
                 ELSE COALESCE(SUM((SELECT MAX(a.num_instances) FROM series_query_attrs a WHERE a.series_fk = r.pk)), 0) END AS SIGNED)
             FROM series r WHERE r.study_fk = s.pk AND r.rejection_state <> 2 AND r.inst_purge_state = 1)', '');
-- What an upgrade of the archive will bring, and isn't there yet: the service asks the view for it, for it sees no table of the archive's.
-- While patient_id has no such column, i.entity_id is the constant of the table around it, which is called i as well; from the moment
-- that it has one, it is that. Read is one row, by its key, and only by who asks for this column of the view. From 5.31 on there
-- is nothing that could come, and no such column. (A view holds such tables from MySQL 5.7.7 and MariaDB 10.2.1 on.)
SET @indexer_can_ask = FALSE;
/*!50707 SET @indexer_can_ask = TRUE */;
/*M!100201 SET @indexer_can_ask = TRUE */;
SET @indexer_to_come = CONCAT(
      IF(@indexer_has_entity_id, '', ', IF((SELECT EXISTS (SELECT 1 FROM patient_id i
              WHERE i.pk = (SELECT MIN(k.pk) FROM patient_id k) AND NOT i.entity_id <=> -1)
             FROM (SELECT -1 AS entity_id) i), ''patient_id.entity_id'', NULL)'),
      IF(@indexer_has_patient_fk, '', ', IF((SELECT EXISTS (SELECT 1 FROM patient_id i
              WHERE i.pk = (SELECT MIN(k.pk) FROM patient_id k) AND NOT i.patient_fk <=> -1)
             FROM (SELECT -1 AS patient_fk) i), ''patient_id.patient_fk'', NULL)'));
SET @indexer_came = IF(@indexer_can_ask AND @indexer_to_come <> '',
      CONCAT(',
       NULLIF(CONCAT_WS('', ''', @indexer_to_come, '), '''') AS came_since'), '');
SET @indexer_file = 'add_indexer_arc5.sql';
-- For which tables this is made: kept as the comment of study_service.
SET @indexer_made_for = CONCAT('dcm4chee-arc 5', IF(@indexer_has_patient_fk, ' patient_fk', ''),
                               IF(@indexer_has_patient_id_fk, ' patient_id_fk', ''), IF(@indexer_has_entity_id, ' entity_id', ''),
                               IF(@indexer_has_rejected, ' rejected', ''), IF(@indexer_has_purge, ' purge', ''));

-- %include definer.sql

-- ---------------------------------------------------------------------------------------------------------------
-- 2. The account of the nightly event, and what the triggers' account lacks of rights on the archive's tables.
-- ---------------------------------------------------------------------------------------------------------------
-- %include account.sql

DROP PROCEDURE IF EXISTS indexer_install_table_rights;
DELIMITER //
CREATE PROCEDURE indexer_install_table_rights()
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
    CALL indexer_install_rights('SELECT, TRIGGER', the_table);
    FETCH tables_read INTO the_table;
  END WHILE;
  CLOSE tables_read;
END//
DELIMITER ;
CALL indexer_install_table_rights();
DROP PROCEDURE indexer_install_table_rights;

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
    CREATE TABLE rejected_instance (pk INT NOT NULL PRIMARY KEY, study_iuid VARCHAR(255)) ENGINE = InnoDB COMMENT 'cdc_indexer';
  END IF;
END//
DELIMITER ;
CALL indexer_install_rejected(0);

-- ---------------------------------------------------------------------------------------------------------------
-- 5. View and table.
-- ---------------------------------------------------------------------------------------------------------------
SET @indexer_sql = CONCAT('CREATE OR REPLACE ALGORITHM = MERGE DEFINER = ', @indexer_account, ' SQL SECURITY DEFINER
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
       NULLIF(', @indexer_entity_id, ', ''*'') AS patient_id_issuer', @indexer_came, '
  FROM study s STRAIGHT_JOIN patient p ON p.pk = s.patient_fk
       LEFT JOIN person_name n ON n.pk = p.pat_name_fk
       LEFT JOIN patient_id i ON i.pk = ', @indexer_first_id);
PREPARE indexer_statement FROM @indexer_sql;
EXECUTE indexer_statement;
DEALLOCATE PREPARE indexer_statement;

-- %include table.sql

-- ---------------------------------------------------------------------------------------------------------------
-- 6. Procedures and the event; the trigger that numbers and dates rows; and a trial, before any trigger is on.
-- ---------------------------------------------------------------------------------------------------------------
-- %include procedures.sql

-- %include row_trigger.sql

-- %include trial.sql

-- ---------------------------------------------------------------------------------------------------------------
-- 7. Triggers on. Each has a handler of its own: an error in or below it never reaches the archive. (A handler in the procedure
--    could not catch that the procedure itself is missing.)
--    Texts are compared as bytes: for the column's collation PEÑA and PENA may be the same.
--    What a trigger reads it reads with SELECT ... INTO alone: a subquery in CALL, IF or SET reads with a lock, and would
--    make the archive wait.
-- ---------------------------------------------------------------------------------------------------------------
-- Should the archive have no table rejected_instance, an empty one is made for this moment: a script can't make a trigger only
-- if its table is there.
CALL indexer_install_rejected(1);
-- %triggers triggers_arc5.sql
CALL indexer_install_rejected(0);
DROP PROCEDURE indexer_install_rejected;

-- From 5.31 on what matters of an id stands in its row, and OLD and NEW are compared. (Not before, and not while the archive is being
-- updated: a column that goes away must not be named.)
SET @indexer_compares = @indexer_has_patient_fk AND @indexer_has_entity_id AND NOT @indexer_has_patient_id_fk;
-- %compared compared_arc5.sql

-- ---------------------------------------------------------------------------------------------------------------
-- 8. Record what happened while the triggers were off: studies that are new or look different, studies that are gone.
--    A study recorded between part 3 and part 4 is recorded once more: it may have changed, or gone, since.
-- ---------------------------------------------------------------------------------------------------------------
-- %include window_record.sql
-- %include window_images.sql
-- %include window_gone.sql

-- ---------------------------------------------------------------------------------------------------------------
-- 9. What is left over, and what there is to say.
-- ---------------------------------------------------------------------------------------------------------------
-- %include old_accounts.sql

-- %include said.sql
