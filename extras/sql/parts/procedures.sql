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
          {{now}});
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
